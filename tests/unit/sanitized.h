/* SPDX-License-Identifier: Apache-2.0
 * What builds with sanitizers leave out.  Include cmocka.h before. */
#ifndef QMOE_TEST_SANITIZED_H
#define QMOE_TEST_SANITIZED_H

#include <stdbool.h>
#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

/* A check that takes long with sanitizers, while others take the same ways
 * through the code; QMOE_TEST_ALL in the environment asks for it. */
static inline bool is_too_long(void)
{
    return SANITIZED && getenv("QMOE_TEST_ALL") == NULL;
}

#endif
