/* SPDX-License-Identifier: Apache-2.0 */
#include "side_files.h"

#include "alloc.h"
#include "map.h"

qmoe_status qmi_copy_side_files(const qmi_output *output,
    qmi_manifest *manifest, const qmi_checkpoint *checkpoint,
    const char *directory, qmi_error *err)
{
    static const char *const names[] = {"spiece.model", "tokenizer.json",
        "tokenizer_config.json", "special_tokens_map.json",
        "generation_config.json"};
    enum { MAX_BYTES = 256 << 20 };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *text = NULL;
        size_t n_bytes = 0;
        char *path = checkpoint != NULL
                         ? qmi_checkpoint_beside(checkpoint, names[i], err)
                         : qmi_path_join(directory, names[i], err);
        if (path == NULL)
            return QMOE_E_NOMEM;
        qmoe_status status =
            qmi_read_file(&text, &n_bytes, path, MAX_BYTES, err);
        qmi_free(path);
        if (status == QMOE_E_NOT_FOUND)
            continue;
        if (status == QMOE_OK)
            status =
                manifest != NULL
                    ? qmi_manifest_write_file(
                          manifest, output, names[i], text, n_bytes, err)
                    : qmi_output_write(output, names[i], text, n_bytes, err);
        qmi_free(text);
        QMI_TRY(status);
    }
    return QMOE_OK;
}
