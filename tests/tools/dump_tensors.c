/* SPDX-License-Identifier: Apache-2.0
 * What a file of torch.save holds, for comparison with PyTorch itself:
 *
 *     dump_tensors FILE
 *
 * Per tensor a line "name<TAB>dtype<TAB>shape, comma-separated<TAB>bytes", then
 * that many bytes in C order; per integer a line "name<TAB>int<TAB>value<TAB>0".
 * Exit code 1 with the reader's error on stderr. */
#include <inttypes.h>
#include <stdio.h>

#include "torch_file.h"

static qmoe_status dump(const qmi_tensor_file *file, qmi_error *err)
{
    for (size_t i = 0; i < qmi_tensor_file_count(file); i++) {
        const qmi_tensor *t = qmi_tensor_file_at(file, i);
        QMI_TRY(qmi_tensor_file_fetch(file, t->data, t->n_bytes, err));
        printf("%s\t%s\t", t->name, qmi_dtype_name(t->dtype));
        for (int d = 0; d < t->rank; d++)
            printf("%s%" PRId64, d > 0 ? "," : "", t->shape[d]);
        printf("\t%" PRIu64 "\n", t->n_bytes);
        fwrite(t->data, 1, (size_t)t->n_bytes, stdout);
    }
    for (size_t i = 0; i < qmi_torch_integer_count(file); i++)
        printf("%s\tint\t%" PRId64 "\t0\n", qmi_torch_integer_name(file, i),
            qmi_torch_integer_at(file, i));
    return QMOE_OK;
}

int main(int argc, char **argv)
{
    qmi_error err = {.text = ""};
    qmi_tensor_file *file = NULL;
    if (argc != 2) {
        fprintf(stderr, "usage: %s FILE\n", argv[0]);
        return 2;
    }
    qmoe_status status = qmi_torch_open(&file, argv[1], &err);
    if (status == QMOE_OK)
        status = dump(file, &err);
    qmi_tensor_file_close(file);
    if (status == QMOE_OK && fflush(stdout) == 0)
        return 0;
    fprintf(stderr, "%s: %s\n", qmoe_status_name(status), err.text);
    return 1;
}
