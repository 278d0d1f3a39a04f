/* SPDX-License-Identifier: Apache-2.0
 * LD_PRELOAD: from the QMOE_TEST_THREADS-th on, no thread can be created. */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

typedef int create_fn(
    pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
    void *(*run)(void *), void *argument)
{
    static atomic_int n;
    const char *first = getenv("QMOE_TEST_THREADS");
    create_fn *real;
    *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    if (first != NULL && ++n >= atoi(first))
        return EAGAIN;
    return real(thread, attributes, run, argument);
}
