// Runs CUDA kernels on the CPU, for tests: what the kernels use of CUDA, in plain C++.
//
// A block's threads are fibers of one operating-system thread. Each runs until it ends or reaches __syncthreads(); when all
// have, all go on. The order within a round can be turned round or shuffled, and shared memory holds NaN when a block
// starts, so that a barrier that is missing shows in the results. A barrier that some threads do not reach ends the program.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <ucontext.h>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct HostIndex {
    unsigned x;
};
inline HostIndex gridDim, blockDim, blockIdx, threadIdx;

using cudaStream_t = void*;

constexpr int cudaErrorInvalidValue = 1;

inline int cudaGetLastError() { return 0; }

namespace host_cuda {

enum class Order { forward, backward, shuffled };

struct Settings {
    Order order = Order::forward;
    std::vector<unsigned> blocks;  // the blocks of each launch that run; all of them if empty
    std::int64_t launches = 0;     // counted
    std::int64_t grid = 0;         // blocks of the last launch
};
inline Settings settings;

// Shared memory of every kernel, as its declaration is first met.
inline std::vector<std::pair<void*, std::size_t>> shared_arrays;

inline bool share(void* data, std::size_t size) {
    shared_arrays.emplace_back(data, size);
    std::memset(data, 0xFF, size);
    return true;
}

constexpr std::size_t STACK = 128 << 10;

struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(STACK);
    bool done = false, waiting = false;
    void* fake_stack = nullptr;  // AddressSanitizer's
};

inline ucontext_t scheduler;
inline const void* scheduler_stack;
inline std::size_t scheduler_stack_size;
inline Fiber* current;
inline std::function<void()> body;

// AddressSanitizer must know which stack is in use.
inline void leave([[maybe_unused]] void** keep, [[maybe_unused]] const void* stack, [[maybe_unused]] std::size_t size) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(keep, stack, size);
#endif
}

inline void arrive([[maybe_unused]] void* kept, [[maybe_unused]] const void** from, [[maybe_unused]] std::size_t* size) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(kept, from, size);
#endif
}

inline void start() {
    arrive(nullptr, &scheduler_stack, &scheduler_stack_size);
    body();
    current->done = true;
    leave(nullptr, scheduler_stack, scheduler_stack_size);
    swapcontext(&current->context, &scheduler);
}

inline void wait() {
    Fiber* self = current;
    self->waiting = true;
    leave(&self->fake_stack, scheduler_stack, scheduler_stack_size);
    swapcontext(&self->context, &scheduler);
    arrive(self->fake_stack, &scheduler_stack, &scheduler_stack_size);
}

inline void resume(Fiber& fiber) {
    void* kept = nullptr;
    current = &fiber;
    fiber.waiting = false;
    leave(&kept, fiber.stack.data(), fiber.stack.size());
    swapcontext(&scheduler, &fiber.context);
    arrive(kept, nullptr, nullptr);
}

inline std::vector<unsigned> thread_order(unsigned threads) {
    std::vector<unsigned> order(threads);
    std::iota(order.begin(), order.end(), 0u);
    if (settings.order == Order::backward) std::reverse(order.begin(), order.end());
    static std::mt19937 random(1);
    if (settings.order == Order::shuffled) std::shuffle(order.begin(), order.end(), random);
    return order;
}

inline void run_block(unsigned threads) {
    static std::vector<Fiber> fibers;
    if (fibers.size() < threads) fibers = std::vector<Fiber>(threads);
    for (auto [data, size] : shared_arrays) std::memset(data, 0xFF, size);
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        fiber.done = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, start, 0);
    }
    for (unsigned left = threads; left > 0;) {
        unsigned waiting = 0;
        for (unsigned i : thread_order(threads)) {
            threadIdx.x = i;
            resume(fibers[i]);
            waiting += fibers[i].waiting;
            left -= fibers[i].done;
        }
        if (waiting != 0 && waiting != threads) {
            std::fprintf(stderr, "host_cuda: %u of %u threads reached the barrier\n", waiting, threads);
            std::abort();
        }
    }
}

inline void launch(std::int64_t blocks, unsigned threads, std::function<void()> kernel) {
    if (blocks < 1 || blocks > 0x7FFFFFFF || threads < 1 || threads > 1024) {
        std::fprintf(stderr, "host_cuda: a grid of %lld blocks of %u threads cannot be launched\n", static_cast<long long>(blocks), threads);
        std::abort();
    }
    ++settings.launches;
    settings.grid = blocks;
    gridDim.x = static_cast<unsigned>(blocks);
    blockDim.x = threads;
    body = std::move(kernel);
    const auto run = [&](unsigned block) {
        blockIdx.x = block;
        run_block(threads);
    };
    if (settings.blocks.empty())
        for (unsigned block = 0; block < gridDim.x; ++block) run(block);
    else
        for (unsigned block : settings.blocks)
            if (block < gridDim.x) run(block);
}

}  // namespace host_cuda

inline void __syncthreads() { host_cuda::wait(); }

#define GGDR_SHARED(TYPE, NAME, COUNT)   \
    alignas(16) static TYPE NAME[COUNT]; \
    [[maybe_unused]] static const bool NAME##_is_shared = host_cuda::share(NAME, sizeof(NAME))

#define GGDR_LAUNCH(KERNEL, BLOCKS, THREADS, STREAM, ...) \
    static_cast<void>(STREAM), host_cuda::launch(BLOCKS, THREADS, [=] { (KERNEL)(__VA_ARGS__); })

#define GGDR_KEEP(INDEX) static_cast<void>(INDEX)
