/* SPDX-License-Identifier: Apache-2.0
 * Parallel loops over independent items that take long: the calling thread
 * works on none of them, it shows how far they are and hears of a wish to end
 * early. */
#ifndef QMI_PARALLEL_H
#define QMI_PARALLEL_H

#include "cancel.h"

typedef struct qmi_loop {
    int n_threads; /* that work, beside the caller */
    int64_t n_items;
    /* Item `item` on thread 0 <= thread < n_threads; no two at once on the same
     * thread. */
    void (*work)(void *user, int64_t item, int thread);
    /* Called by the calling thread about ten times a second; NULL: nothing is.
     * What is not QMOE_OK ends the loop. */
    qmoe_status (*watch)(void *user);
    void *user;
} qmi_loop;

/* Items are begun in order.  When the system gives no threads, the caller does
 * all of them.  E_CANCELLED, or what `watch` returned: items were left out, and
 * those at hand were told through err->cancel. */
qmoe_status qmi_parallel(const qmi_loop *loop, qmi_error *err);

#endif
