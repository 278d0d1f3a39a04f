/* SPDX-License-Identifier: Apache-2.0
 * Reader of one safetensors file.  Every rule of the format is checked when
 * the file is opened; behind that door offsets and sizes are trusted. */
#ifndef QMI_SAFETENSORS_H
#define QMI_SAFETENSORS_H

#include "tensor_file.h"

/* Opens and validates `path`.  Errors name file, tensor and the rule broken:
 * file shorter than 8 bytes; header length above 100,000,000 or beyond the
 * file; header not UTF-8, not a JSON object, duplicate names; an entry without
 * exactly {dtype, shape, data_offsets}; unknown dtype; rank above 8; a number
 * that is not a non-negative integer below 2^53; element count or byte count
 * overflowing or not a whole number of bytes; end < begin; size of the range
 * not the size of the shape; ranges that do not tile the data area from 0
 * without gap or overlap; file longer or shorter than the header says;
 * __metadata__ that is not a map of strings.  Memory use is proportional to
 * the number of tensors, whatever the header claims. */
qmoe_status qmi_safetensors_open(
    qmi_tensor_file **out, const char *path, qmi_error *err);

#endif
