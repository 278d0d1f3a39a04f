/* SPDX-License-Identifier: Apache-2.0
 * A device of the emulated driver and the same on the host: every launch is
 * done on both, on the host at once.  The order of launches shows in the
 * memory, which must be the same after every pass.  Failures are cmocka's. */
#ifndef QMOE_TWICE_H
#define QMOE_TWICE_H

#include "launch_list.h"
#include "launches.h"
#include "qcuda_device.h"

enum { N = 64, N_BUFFERS = 4 };

extern qmi_device device;
extern qmi_error err;
extern qmi_buffer buffers[N_BUFFERS]; /* of N u32 each */
extern uint32_t want[N_BUFFERS][N];

/* One launch; two blocks of threads or one. */
typedef struct step {
    enum { STEP, OTHER, WIDE, COPY, FILL } kind;
    int dst, src;
    uint32_t add;
    uint32_t blocks; /* copies and fills: times TOY_THREADS elements */
    uint32_t fails;
} step;

/* With QMOE_CUDA_GRAPHS and QMOE_CUDA_EMU_LIMITS (until it is closed) as given,
 * if not NULL. */
void open_device(const char *graphs, const char *limits);
void close_device(void);

/* Fills a buffer with numbers of its own. */
void upload(int at, uint32_t seed);
/* Launches on the device alone. */
qmoe_status try_step(const step *s);
void launch(const step *s);
/* Is the device's memory what the host's is? */
bool has_run(void);
/* And is after that. */
void end_run(void);
void launch_run(const step *steps, size_t n);

qmi_launch_counts counts(void);
void expect_counts(
    uint64_t single, uint64_t replayed, uint64_t made, uint64_t updated);

#endif
