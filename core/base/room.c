/* SPDX-License-Identifier: Apache-2.0
 * In: a number of threads or of bytes.  Out: whether the system grants them at
 * this moment, found out by asking for them and giving them back.  Somebody
 * else may take them afterwards: this lowers a risk and promises nothing. */
#include "room.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

/* The array is on the stack. */
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
    /* Held while threads start: none can end before all are there. */
    pthread_mutex_lock(&lock);
    while (n < wanted - 1 && n < MOST_THREADS &&
           pthread_create(&threads[n], NULL, wait_for_end, &lock) == 0)
        n++;
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    return n + 1;
}

int qmi_usable_processors(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    int n = CPU_COUNT(&set);
    return n > 0 ? n : 1;
}

bool qmi_has_address_space(size_t n_mib)
{
    /* Private and not touched: address space alone is asked for, no memory. */
    const size_t n = n_mib << 20;
    void *p = mmap(
        NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p != MAP_FAILED && munmap(p, n) == 0;
}
