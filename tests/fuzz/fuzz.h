/* SPDX-License-Identifier: Apache-2.0
 * What the fuzz targets share: bytes as a file, without touching a disk. */
#ifndef QMOE_TEST_FUZZ_H
#define QMOE_TEST_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

/* A file in memory with these contents, and its path.  Close *fd. */
static inline void fuzz_file(
    int *fd, char path[64], const uint8_t *data, size_t n_bytes)
{
    *fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (*fd < 0)
        abort();
    for (size_t at = 0; at < n_bytes;) {
        ssize_t n = write(*fd, data + at, n_bytes - at);
        if (n <= 0)
            abort();
        at += (size_t)n;
    }
    snprintf(path, 64, "/proc/self/fd/%d", *fd);
}

/* Reads every byte, so that a sanitizer sees one that is not there. */
static inline void fuzz_touch(const void *data, uint64_t n_bytes)
{
    static volatile uint8_t sink;
    const uint8_t *p = data;
    for (uint64_t i = 0; i < n_bytes; i++)
        sink = (uint8_t)(sink ^ p[i]);
}

#endif
