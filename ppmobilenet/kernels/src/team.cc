#include "team.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace {

constexpr int SPINS = 2000;  // some 20 microseconds

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// A number that grows and can be waited for.
class Counter {
   public:
    uint32_t now() const { return value_.load(std::memory_order_acquire); }
    void advance() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            value_.fetch_add(1, std::memory_order_release);
        }
        changed_.notify_all();
    }
    void wait_while(uint32_t old) {
        for (int i = 0; i < SPINS; i++) {
            if (now() != old) return;
            pause();
        }
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [&] { return now() != old; });
    }

   private:
    std::atomic<uint32_t> value_{0};
    std::mutex mutex_;
    std::condition_variable changed_;
};

struct Team {
    const int threads;
    void (*job)(void*, int) = nullptr;
    void* context = nullptr;
    Counter started, passed;
    std::atomic<int> arrived{0};

    explicit Team(int count) : threads(count) {
        for (int t = 1; t < threads; t++) std::thread(&Team::work, this, t, started.now()).detach();
    }
    void barrier() {
        const uint32_t before = passed.now();
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
            arrived.store(0, std::memory_order_relaxed);
            passed.advance();
        } else {
            passed.wait_while(before);
        }
    }
    void work(int t, uint32_t seen) {
        for (;; seen++) {
            started.wait_while(seen);
            if (!job) return leave();
            job(context, t);
            barrier();
        }
    }
    void end() {
        job = nullptr;
        started.advance();
        leave();
    }
    void leave() {  // the last one out deletes; the others touch nothing after they have counted themselves
        const int all = threads;
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == all) delete this;
    }
};

std::mutex one_call;  // calls from several threads take turns
Team* team = nullptr;

void forget_team() {  // a forked child has none of its parent's threads
    team = nullptr;
    new (&one_call) std::mutex;
}

}  // namespace

void team_run(int threads, void (*job)(void*, int), void* context) {
    static const int once = pthread_atfork(nullptr, nullptr, forget_team);
    (void)once;
    std::lock_guard<std::mutex> lock(one_call);
    if (team && team->threads != threads) {
        team->end();
        team = nullptr;
    }
    if (!team) team = new Team(threads);
    team->job = job;
    team->context = context;
    if (threads > 1) team->started.advance();
    job(context, 0);
    if (threads > 1) team->barrier();
}

void team_barrier() { team->barrier(); }
