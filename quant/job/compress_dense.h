/* SPDX-License-Identifier: Apache-2.0
 * The matrices beside the experts: attention, dense and shared feed-forward,
 * embedding, head (qmi_model_may_compress).  With a number of bits they are
 * compressed into the first shard instead of copied. */
#ifndef QMI_COMPRESS_DENSE_H
#define QMI_COMPRESS_DENSE_H

#include "compress_job.h"
#include "safetensors_writer.h"

/* Makes room for job->dense. */
qmoe_status qmi_job_begin_dense(qmi_job *job);
/* How a matrix that is compressed is. */
qmi_stack_recipe qmi_job_dense_recipe(const qmi_job *job, const qmi_weight *w);
/* Weights of the matrices that wait for second moments. */
uint64_t qmi_job_calibrated_weights(const qmi_job *job);
/* The weight that a tensor of the source holds and that is compressed, perhaps
 * under another of its names; NULL: the tensor is copied. */
const qmi_weight *qmi_job_dense_weight(const qmi_job *job, const qmi_tensor *t);
/* Declares the parts of `w` as the next tensors of the shard `file`, and adds
 * its entry of the manifest. */
qmoe_status qmi_job_declare_dense(
    qmi_job *job, const qmi_weight *w, qmi_st_writer *writer, const char *file);
/* Rounds `w`, whose data are in memory, to nearest into its tensors. */
qmoe_status qmi_job_write_dense(
    qmi_job *job, const qmi_weight *w, qmi_st_writer *writer);
/* Appends to the tensors from `index`. */
qmoe_status qmi_job_store_dense(qmi_job *job, const qmi_encoded *encoded,
    qmi_st_writer *writer, size_t index);
/* Of the shard that is open. */
qmi_st_writer *qmi_job_first_shard(const qmi_job *job);

#endif
