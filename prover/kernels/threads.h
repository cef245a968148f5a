// Splitting an index range over threads: a pool of sleeping workers, no spinning, no OpenMP.
//
// Waking a worker costs 10 to 30 microseconds, starting a thread 45. The pool belongs to one process id, so a forked child
// makes its own; a second caller at the same time computes alone. VERILORA_THREADS bounds the threads (default: all CPUs).
#pragma once
#include <unistd.h>

#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "field.h"

static const unsigned VL_MAX_THREADS = 256;

static unsigned thread_count() {
    const char* wanted = std::getenv("VERILORA_THREADS");
    long count = wanted ? std::strtol(wanted, nullptr, 10) : 0;
    static const long cpus = (long)std::thread::hardware_concurrency();  // asking the system takes 10 microseconds
    if (count <= 0) count = cpus;
    return count < 1 ? 1 : count > (long)VL_MAX_THREADS ? VL_MAX_THREADS : (unsigned)count;
}

class Pool {
  public:
    typedef void (*Job)(const void* context, unsigned chunk);

    // Runs job(context, 0 … chunks-1), each once, on this thread and up to threads-1 workers; who is done takes the next.
    void run(Job job, const void* context, unsigned chunks, unsigned threads) {
        std::unique_lock<std::mutex> lock(mutex_);
        while (workers_ + 1 < threads && start_worker()) {
        }
        job_ = job, context_ = context, next_ = 0, chunks_ = chunks, open_ = chunks;
        lock.unlock();
        wake_.notify_all();
        lock.lock();
        work(lock);
        done_.wait(lock, [&] { return open_ == 0; });
    }

    // The pool of this process, or null while another caller has it; `release` afterwards.
    static Pool* acquire() {
        static std::mutex guard;
        static Pool* pool = nullptr;
        static pid_t owner = 0;
        std::unique_lock<std::mutex> lock(guard, std::try_to_lock);
        if (!lock) return nullptr;
        if (!pool || owner != getpid()) pool = new Pool, owner = getpid();  // after a fork the old one has no threads
        return pool->taken_.try_lock() ? pool : nullptr;
    }
    void release() { taken_.unlock(); }

  private:
    bool start_worker() {
        try {
            std::thread([this] {
                std::unique_lock<std::mutex> lock(mutex_);
                for (;;) {
                    wake_.wait(lock, [&] { return next_ < chunks_; });
                    work(lock);
                }
            }).detach();
        } catch (const std::system_error&) {
            return false;  // no thread to be had: the caller does that share
        }
        ++workers_;
        return true;
    }
    void work(std::unique_lock<std::mutex>& lock) {
        while (next_ < chunks_) {
            const unsigned chunk = next_++;
            lock.unlock();
            job_(context_, chunk);
            lock.lock();
            if (--open_ == 0) done_.notify_one();
        }
    }

    std::mutex mutex_, taken_;
    std::condition_variable wake_, done_;
    Job job_ = nullptr;
    const void* context_ = nullptr;
    unsigned workers_ = 0, next_ = 0, chunks_ = 0, open_ = 0;
};

// Calls run(chunk, begin, end) for parts of [0, n), chunk < each·thread_count(), `each` parts for a thread where they differ in what they
// cost; serial when `work` (in units of about one multiplication) is not worth waking anybody.
template <class F>
static void parallel(u64 n, u64 work, const F& run, u64 each = 1) {
    const u64 threads = work < (1 << 17) ? 1 : thread_count(), count = threads > 1 ? threads * each : 1;
    u64 step = (n + count - 1) / count;
    if (step > 64) step = (step + 63) / 64 * 64;
    Pool* pool = step < n ? Pool::acquire() : nullptr;
    if (!pool) return run(0u, (u64)0, n);
    struct Context {
        const F& run;
        u64 n, step;
    } context{run, n, step};
    pool->run(
        [](const void* at, unsigned chunk) {
            const Context& c = *(const Context*)at;
            u64 begin = chunk * c.step, end = begin + c.step;
            c.run(chunk, begin, end < c.n ? end : c.n);
        },
        &context, (unsigned)((n + step - 1) / step), (unsigned)threads);
    pool->release();
}
