/* SPDX-License-Identifier: Apache-2.0
 * The matrices beside the experts: attention, dense and shared feed-forward,
 * embedding, head (qmi_model_may_compress).  With a number of bits they are
 * compressed into the first shard instead of copied. */
#ifndef QMI_COMPRESS_DENSE_H
#define QMI_COMPRESS_DENSE_H

#include "compress_job.h"
#include "safetensors_writer.h"

/* Makes room for job->dense_results. */
qmoe_status qmi_job_begin_dense(qmi_job *job);
/* The weight that a tensor of the source holds and that is compressed, perhaps
 * under another of its names; NULL: the tensor is copied. */
const qmi_weight *qmi_job_dense_weight(const qmi_job *job, const qmi_tensor *t);
/* Declares the parts of `w` as the next tensors of the shard `file`, and adds
 * its entry of the manifest. */
qmoe_status qmi_job_declare_dense(
    qmi_job *job, const qmi_weight *w, qmi_st_writer *writer, const char *file);
/* Compresses `w`, whose data are in memory, into the tensors from `index`, and
 * sets its entry of job->dense_results. */
qmoe_status qmi_job_write_dense(
    qmi_job *job, const qmi_weight *w, qmi_st_writer *writer, size_t index);

#endif
