/* SPDX-License-Identifier: Apache-2.0
 * What the system refuses (room.h), found out by asking for it. */
#include "room.h"

#include <pthread.h>
#include <sys/mman.h>

enum { MOST_THREADS = 1024 };

/* Waits, so that all of them are there at once. */
static void *wait_for_end(void *lock)
{
    pthread_mutex_lock(lock);
    pthread_mutex_unlock(lock);
    return NULL;
}

int qmi_startable_threads(int wanted)
{
    pthread_t threads[MOST_THREADS];
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    int n = 0;
    pthread_mutex_lock(&lock);
    while (n < wanted - 1 && n < MOST_THREADS &&
           pthread_create(&threads[n], NULL, wait_for_end, &lock) == 0)
        n++;
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    return n + 1;
}

bool qmi_has_address_space(size_t n_mib)
{
    const size_t n = n_mib << 20;
    void *p = mmap(
        NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p != MAP_FAILED && munmap(p, n) == 0;
}
