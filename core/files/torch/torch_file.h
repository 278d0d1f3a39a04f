/* SPDX-License-Identifier: Apache-2.0
 * Reader of one file of torch.save: a state dict of tensors, or a dict of
 * integers.  Every rule of the format is checked when the file is opened;
 * behind that door offsets and sizes are trusted.  Tensors stay in the memory map;
 * only those (is_view) that the file holds in another order than C order (transposed,
 * strided) are copied, when they are fetched. */
#ifndef QMI_TORCH_FILE_H
#define QMI_TORCH_FILE_H

#include "tensor_file.h"

/* Opens and validates `path`.  Errors name the file and what is wrong: see
 * qmi_zip_read and qmi_pickle_read, and further E_FORMAT: no data.pkl or one
 * above 1 GiB; a storage whose member is missing or has another size than the
 * pickle says; a tensor beyond its storage, with a size that overflows, that
 * repeats elements (expanded), or with a name that is empty, not UTF-8 or there twice
 * (an integer's counts);
 * tensors that together have 64 times the bytes of the file, or whose
 * rearranged copies have more bytes than it.  E_UNSUPPORTED: big-endian data,
 * another format version.  Memory is proportional to the directory and the
 * pickle. */
qmoe_status qmi_torch_open(
    qmi_tensor_file **out, const char *path, qmi_error *err);

/* The rest is for files that qmi_torch_open opened.  Items that are integers
 * (sizes.pt), by name.  index < count. */
size_t qmi_torch_integer_count(const qmi_tensor_file *file);
const char *qmi_torch_integer_name(const qmi_tensor_file *file, size_t index);
int64_t qmi_torch_integer_at(const qmi_tensor_file *file, size_t index);
/* False when there is none of that name.  O(log n). */
bool qmi_torch_integer(
    const qmi_tensor_file *file, const char *name, int64_t *out);

#endif
