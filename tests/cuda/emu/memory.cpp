/* SPDX-License-Identifier: Apache-2.0 */
#include "memory.h"

#include <map>
#include <new>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

namespace emu
{

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMU_ASAN 1
#endif
#endif

#ifdef EMU_ASAN

void *memory_alloc(uint64_t n_bytes)
{
    void *data = nullptr;
    if (posix_memalign(&data, 16, n_bytes) != 0)
        return nullptr;
    memset(data, 0xff, n_bytes);
    return data;
}

void memory_free(void *data)
{
    free(data);
}

#else

struct mapping {
    void *begin;
    uint64_t n_bytes;
};

static std::map<void *, mapping> &mappings()
{
    static std::map<void *, mapping> all;
    return all;
}

void *memory_alloc(uint64_t n_bytes)
{
    const uint64_t page = uint64_t(sysconf(_SC_PAGESIZE));
    if (n_bytes > UINT64_MAX / 2)
        return nullptr;
    const uint64_t rounded = (n_bytes + 15) / 16 * 16;
    const uint64_t usable = (rounded + page - 1) / page * page;
    void *begin = mmap(nullptr, usable + page, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (begin == MAP_FAILED)
        return nullptr;
    uint8_t *end = static_cast<uint8_t *>(begin) + usable;
    if (mprotect(end, page, PROT_NONE) != 0) {
        munmap(begin, usable + page);
        return nullptr;
    }
    memset(begin, 0xff, usable);
    mappings()[end - rounded] = {begin, usable + page};
    return end - rounded;
}

void memory_free(void *data)
{
    const auto found = mappings().find(data);
    if (data == nullptr || found == mappings().end())
        return;
    munmap(found->second.begin, found->second.n_bytes);
    mappings().erase(found);
}

#endif

} // namespace emu
