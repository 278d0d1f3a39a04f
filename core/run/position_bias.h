/* SPDX-License-Identifier: Apache-2.0
 * T5's relative position bias. */
#ifndef QMI_POSITION_BIAS_H
#define QMI_POSITION_BIAS_H

#include "session.h"

/* Makes the position biases of a program reach over `distance`. */
qmoe_status qmi_session_reach(qmoe_session *session, qmi_program program,
    int64_t distance, qmi_error *err);

/* First key bucket of a relative position (key - query), T5's rule. */
int64_t qmi_relative_bucket(int64_t relative, bool bidirectional,
    int64_t n_buckets, int64_t max_distance);

#endif
