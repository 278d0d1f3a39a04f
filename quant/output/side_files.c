/* SPDX-License-Identifier: Apache-2.0
 * In: the number of a small file, and a checkpoint or a directory.  Out: its
 * bytes, or a copy in the output, unchanged.  A file that is not there is no
 * error: which ones a model has differs. */
#include "side_files.h"

#include "alloc.h"
#include "map.h"

qmoe_status qmi_side_file_read(char **text, size_t *n_bytes, size_t i,
    const qmi_checkpoint *checkpoint, const char *directory, qmi_error *err)
{
    /* Bounds what a broken source can make us read; tokenizers are some
     * megabytes. */
    enum { MAX_BYTES = 256 << 20 };
    char *path = checkpoint != NULL
                     ? qmi_checkpoint_beside(checkpoint, qmi_side_files[i], err)
                     : qmi_path_join(directory, qmi_side_files[i], err);
    *text = NULL;
    if (path == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = qmi_read_file(text, n_bytes, path, MAX_BYTES, err);
    qmi_free(path);
    return status;
}

qmoe_status qmi_copy_side_files(qmi_output *output, qmi_manifest *manifest,
    const qmi_checkpoint *checkpoint, const char *directory, qmi_error *err)
{
    for (size_t i = 0; i < QMI_N_SIDE_FILES; i++) {
        const char *name = qmi_side_files[i];
        char *text = NULL;
        size_t n_bytes = 0;
        qmoe_status status =
            qmi_side_file_read(&text, &n_bytes, i, checkpoint, directory, err);
        if (status == QMOE_E_NOT_FOUND)
            continue;
        if (status == QMOE_OK)
            /* A published layout has no manifest. */
            status = manifest != NULL
                         ? qmi_manifest_write_file(
                               manifest, output, name, text, n_bytes, err)
                         : qmi_output_write(output, name, text, n_bytes, err);
        qmi_free(text);
        QMI_TRY(status);
    }
    return QMOE_OK;
}
