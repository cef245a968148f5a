// What the prover asks of the C library's allocator: freed arrays stay, and the heap has huge pages. CPU only.
#pragma once
#ifdef __GLIBC__
#include <malloc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

static bool unlimited(int resource) {
    rlimit limit;
    return getrlimit((__rlimit_resource_t)resource, &limit) == 0 && limit.rlim_cur == RLIM_INFINITY;
}

// Whether addresses that nobody writes to cost nothing: where the system counts them as memory, a process must not take them.
static bool addresses_are_free() {
    char mode = '2';
    if (FILE* file = std::fopen("/proc/sys/vm/overcommit_memory", "r")) {
        mode = (char)std::fgetc(file);
        std::fclose(file);
    }
    return mode != '2' && unlimited(RLIMIT_AS) && unlimited(RLIMIT_DATA);
}

static const size_t READY = 32 << 20;  // bytes: what a task of 2^17 lookups needs

// Takes addresses for the heap, half as many as the machine has memory (a fork is refused from all of it on), and marks them, so
// that an array's first use is a fault for 2 MB and not one for 4 KB, and its later ones miss fewer translations. Nothing is written,
// so no memory is used. A heap that reaches so far already was marked by another library of this process.
static void mark_heap() {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (size_t)sysconf(_SC_PHYS_PAGES) / 2 * page;
    void* heap = std::malloc(1);
    const bool marked = (char*)sbrk(0) - (char*)heap > (ptrdiff_t)size;
    std::free(heap);
    if (marked || !(heap = std::malloc(size))) return;
    const size_t skipped = -(size_t)heap % page;
    madvise((char*)heap + skipped, size - skipped, MADV_HUGEPAGE);
#ifdef MADV_POPULATE_WRITE
    madvise((char*)heap + skipped, READY / page * page, MADV_POPULATE_WRITE);
#endif
    std::free(heap);
}

static void keep_memory() {
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, -1);  // never: above 2 GB a threshold made every task pay for its memory again (docs/log.md)
    mallopt(M_ARENA_MAX, 1);
    if (addresses_are_free()) mark_heap();
}
#else
static void keep_memory() {}
#endif
