/* SPDX-License-Identifier: Apache-2.0
 * Types of the numbers in a GGUF file, and what they stand for.  A tensor of
 * most types is a sequence of blocks, each of so many elements in so many
 * bytes, which do not cross rows. */
#ifndef QMI_GGUF_TYPES_H
#define QMI_GGUF_TYPES_H

#include "dtype.h"

typedef struct qmi_gguf_type {
    uint32_t id;      /* as in the file */
    const char *name; /* "Q4_K"; NULL: an id that is not in use */
    /* Elements and bytes of a block; 0: a type that is known by name only. */
    uint32_t n_elements, n_bytes;
    /* What a tensor of plain numbers is; QMI_DTYPE_COUNT: it has blocks. */
    qmi_dtype dtype;
    /* One block of bytes, at any alignment, to f32 [n_elements].  NULL for
     * plain numbers. */
    void (*decode)(float *dst, const uint8_t *block);
} qmi_gguf_type;

enum { QMI_GGUF_MAX_BLOCK = 256 };

/* NULL: no type has the id. */
const qmi_gguf_type *qmi_gguf_type_find(uint32_t id);
/* n elements, whole blocks of a type that has a size, to f32 [n].  Every
 * value is what the format defines, in single precision with one rounding for
 * each multiplication and subtraction. */
void qmi_gguf_decode(
    const qmi_gguf_type *type, float *dst, const void *src, uint64_t n);

#endif
