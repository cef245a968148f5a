// A GPU in a C++ compiler's eyes: what the CUDA branch of prover/kernels needs, so that the very text which NVRTC compiles runs
// here. Blocks run one after another; a block's threads are fibers that change at __syncthreads and nowhere else.
//
// A barrier that only some threads of a block reach ends the launch with an error, as it would hang or be undefined on a
// device. Between barriers the threads run in an order that is drawn anew each time, so a missing barrier shows. Shared memory
// is one copy, filled with garbage before every block.
#pragma once
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define __CUDACC_RTC__ 1
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __constant__ static const
#define __launch_bounds__(threads)
#define __shared__ static __attribute__((section("emulated_shared")))  // so that its extent is known

struct Index {
    unsigned x, y, z;
};
static Index blockIdx, threadIdx, blockDim, gridDim;

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline unsigned long long __brevll(unsigned long long x) {
    unsigned long long y = 0;
    for (int i = 0; i < 64; ++i) y = y << 1 | (x >> i & 1);
    return y;
}
template <class T>
static inline T atomicAdd(T* at, T more) {
    const T before = *at;
    *at += more;
    return before;
}
template <class T>
static inline T atomicCAS(T* at, T expected, T wanted) {
    const T before = *at;
    if (before == expected) *at = wanted;
    return before;
}
static inline void __threadfence() {}

namespace emulated {
enum { MAX_THREADS = 1024, STACK = 1 << 16 };
enum Status { OK = 0, DIVERGENT_BARRIER = 1, BAD_LAUNCH = 2 };

struct Fiber {
    jmp_buf at;
    ucontext_t start;
    bool born, waiting, done;
};
static Fiber fibers[MAX_THREADS];
static jmp_buf scheduler;
static ucontext_t home;
static unsigned current;
static void (*job)(void*);
static void* job_context;

static void live() {  // a fiber serves launch after launch
    for (;;) {
        job(job_context);
        fibers[current].done = true;
        if (!_setjmp(fibers[current].at)) _longjmp(scheduler, 1);
    }
}

static void barrier() {
    fibers[current].waiting = true;
    if (!_setjmp(fibers[current].at)) _longjmp(scheduler, 1);
}

static void resume(unsigned thread) {
    Fiber& f = fibers[thread];
    current = thread, threadIdx = Index{thread, 0, 0}, f.waiting = false;
    if (_setjmp(scheduler)) return;
    if (f.born) _longjmp(f.at, 1);
    f.born = true;
    static char* stacks = nullptr;
    if (!stacks)
        stacks = (char*)mmap(nullptr, (size_t)MAX_THREADS * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = stacks + (size_t)thread * STACK;
    f.start.uc_stack.ss_size = STACK;
    f.start.uc_link = nullptr;
    makecontext(&f.start, live, 0);
    swapcontext(&home, &f.start);
}

extern "C" __attribute__((weak, visibility("hidden"))) char __start_emulated_shared[], __stop_emulated_shared[];

static Status run_block(unsigned threads) {
    memset(__start_emulated_shared, 0xA5, (size_t)(__stop_emulated_shared - __start_emulated_shared));
    for (unsigned t = 0; t < threads; ++t) fibers[t].done = fibers[t].waiting = false;
    for (;;) {
        static uint64_t drawn = 1;
        drawn = drawn * 6364136223846793005ULL + 1442695040888963407ULL;
        const unsigned first = (unsigned)(drawn >> 33), step = (unsigned)(drawn >> 40) | 1;  // the count is a power of two
        unsigned waiting = 0;
        for (unsigned k = 0; k < threads; ++k) {
            const unsigned t = (first + k * step) & (threads - 1);
            if (fibers[t].done) return DIVERGENT_BARRIER;  // the others wait for it
            resume(t);
            waiting += fibers[t].waiting;
        }
        if (!waiting) return OK;
        if (waiting < threads) return DIVERGENT_BARRIER;
    }
}

template <class B>
struct Call {
    void (*kernel)(B, unsigned long long, unsigned long long);
    B body;
    unsigned long long n0, n1;
    static void invoke(void* at) {
        const Call* call = (const Call*)at;
        call->kernel(call->body, call->n0, call->n1);
    }
};

template <class B>
static int launch(
    void (*kernel)(B, unsigned long long, unsigned long long), const void* words, unsigned long long size, unsigned long long n0,
    unsigned long long n1, unsigned grid, unsigned block) {
    if (size != sizeof(B) || !grid || !block || block > MAX_THREADS || block & (block - 1)) return BAD_LAUNCH;
    Call<B> call{kernel, B(), n0, n1};
    memcpy((void*)&call.body, words, sizeof(B));
    job = Call<B>::invoke, job_context = &call;
    blockDim = Index{block, 1, 1}, gridDim = Index{grid, 1, 1};
    for (unsigned b = 0; b < grid; ++b) {
        blockIdx = Index{b, 0, 0};
        const Status status = run_block(block);
        if (status != OK) {
            for (unsigned t = 0; t < block; ++t) fibers[t].born = false;  // they hang in the middle of something
            return status;
        }
    }
    return OK;
}
}  // namespace emulated

static __attribute__((noinline)) void __syncthreads() {
    emulated::barrier();
    asm volatile("" ::: "memory");
}
