/* SPDX-License-Identifier: Apache-2.0
 * The directory layout of the paper's published compressed models
 * (docs/publish.md): what a matrix is called and holds there, and the rules it
 * must obey. */
#ifndef QMI_PUBLISHED_H
#define QMI_PUBLISHED_H

#include "model.h"

/* The format whose bytes the layout holds, with the generic dictionary. */
extern const qmi_format *const qmi_published_format;

/* Matrices of an expert: the layout is of SwitchTransformers alone. */
enum { QMI_PUB_KINDS = 2 };

/* The tensors of one matrix; their names end in qmi_published_suffix. */
enum {
    QMI_PUB_CODES,  /* I16 [codewords], read as unsigned */
    QMI_PUB_ROWS,   /* I32 [n_rows + 1] */
    QMI_PUB_LEVELS, /* BF16 [2 * n_rows] */
    QMI_PUB_DUMMY,  /* BF16 [0] */
    QMI_PUB_PARTS
};
extern const char *const qmi_published_suffix[QMI_PUB_PARTS];
qmi_dtype qmi_published_dtype(int part);

/* A matrix found in an exp file. */
typedef struct qmi_published_matrix {
    char name[512];                         /* "....experts.expert_7.wi" */
    const qmi_tensor *parts[QMI_PUB_PARTS]; /* the dummy may be NULL */
    uint64_t n_codes;
} qmi_published_matrix;

/* Finds expert `expert` of a stack in `file` and makes it ready to be read.
 * `sizes`: sizes.pt.  E_FORMAT, naming file and tensor: one is missing, has
 * another dtype or shape; the number of codewords is not that of sizes.pt. */
qmoe_status qmi_published_find(qmi_published_matrix *out,
    const qmi_tensor_file *file, const qmi_tensor_file *sizes,
    const qmi_weight *stack, int64_t expert, qmi_error *err);
/* The matrix as a stack of one, in the file's bytes; offsets[2] is the
 * caller's.  E_FORMAT: a row offset, a row or a level breaks the rules of
 * ternary-dict (docs/format.md, 4.1). */
qmoe_status qmi_published_check(qmi_weight *out, uint64_t offsets[2],
    const qmi_published_matrix *matrix, const qmi_tensor_file *file,
    const qmi_weight *stack, qmi_error *err);
/* Its pages will not be needed again. */
void qmi_published_release(
    const qmi_published_matrix *matrix, const qmi_tensor_file *file);

/* E_UNSUPPORTED: the layout cannot hold matrices of this shape. */
qmoe_status qmi_published_check_shape(const qmi_weight *stack, qmi_error *err);

#endif
