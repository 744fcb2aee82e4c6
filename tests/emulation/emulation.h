// Runs CUDA kernels on the CPU, one block after another, so that the product's own kernel sources can
// be tested and sanitized where there is no GPU.
//
// Two ways to run the threads of a block:
//   fibers (default)          one OS thread steps through all of them, switching at __syncthreads.
//                             Fast, repeatable, and it notices a barrier that not every thread reaches.
//                             The order (ascending or descending) is chosen by the test: a result that
//                             depends on it means a missing barrier.
//   -DEMULATION_THREADS       one std::thread each with a std::barrier: what the sanitizers understand.
//
// Not modelled: warps, memory ordering, speed. Static shared memory is a static variable (blocks run
// one at a time); dynamic shared memory is allocated to the byte for each launch and filled with 0xff
// before each block, so that a read before the first write gives NaN.
#pragma once

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

#define GROUPCONV_HOST
#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __shared__ static
#define __launch_bounds__(...)

struct Dim3 { unsigned x, y, z; };

inline thread_local Dim3 threadIdx;
inline thread_local Dim3 blockIdx;
inline Dim3 blockDim, gridDim;

using std::erf, std::exp, std::tanh;

namespace emulation {

inline unsigned char* shared_memory = nullptr;
inline std::size_t shared_bytes = 0;
inline unsigned char* dynamic_shared() { return shared_memory; }
inline void clear_shared() { std::memset(shared_memory, 0xff, shared_bytes); }

inline std::size_t block_count() { return std::size_t{gridDim.x} * gridDim.y * gridDim.z; }
inline Dim3 block_at(std::size_t i) {
    return {static_cast<unsigned>(i % gridDim.x), static_cast<unsigned>(i / gridDim.x % gridDim.y),
            static_cast<unsigned>(i / gridDim.x / gridDim.y)};
}

inline float half_to_float(std::uint16_t bits) {
    _Float16 value;
    std::memcpy(&value, &bits, sizeof value);
    return static_cast<float>(value);
}

inline std::uint16_t float_to_half(float value) {
    const _Float16 narrow = static_cast<_Float16>(value);
    std::uint16_t bits;
    std::memcpy(&bits, &narrow, sizeof bits);
    return bits;
}

#ifdef EMULATION_THREADS

inline std::optional<std::barrier<>> block_barrier;
inline void wait_for_block() { block_barrier->arrive_and_wait(); }

// Starting a thread under a sanitizer takes longer than running it, so a launch starts them once, for all its blocks.
template <class Body> void run_blocks(unsigned threads, bool, const Body& body) {
    const auto begin = [&]() noexcept {
        clear_shared();
        block_barrier.emplace(threads);
    };
    std::barrier next(threads, begin);  // every thread is between two blocks
    std::vector<std::thread> pool;
    for (unsigned t = 0; t < threads; ++t)
        pool.emplace_back([&, t] {
            for (std::size_t block = 0; block < block_count(); ++block) {
                next.arrive_and_wait();
                blockIdx = block_at(block);
                threadIdx = {t, 0, 0};
                body();
                block_barrier->arrive_and_drop();
            }
        });
    for (auto& thread : pool) thread.join();
}

#else

struct Fibers {
    static constexpr std::size_t STACK = 64 * 1024;
    std::vector<ucontext_t> contexts;
    std::unique_ptr<unsigned char[]> stacks;
    std::vector<char> finished;
    ucontext_t scheduler;
    unsigned current = 0;
    void (*invoke)(const void*) = nullptr;
    const void* body = nullptr;
};
inline Fibers fibers;

inline void wait_for_block() {
    swapcontext(&fibers.contexts[fibers.current], &fibers.scheduler);
    threadIdx = {fibers.current, 0, 0};
}

inline void fiber_main() {
    threadIdx = {fibers.current, 0, 0};
    fibers.invoke(fibers.body);
    fibers.finished[fibers.current] = 1;
}

template <class Body> void run_block(unsigned threads, bool descending, const Body& body) {
    Fibers& f = fibers;
    if (f.contexts.size() < threads) {
        f.contexts.resize(threads);
        f.stacks.reset(new unsigned char[threads * Fibers::STACK]);
    }
    f.finished.assign(threads, 0);
    f.body = &body;
    f.invoke = [](const void* b) { (*static_cast<const Body*>(b))(); };
    for (unsigned t = 0; t < threads; ++t) {
        ucontext_t& context = f.contexts[t];
        getcontext(&context);
        context.uc_stack.ss_sp = f.stacks.get() + t * Fibers::STACK;
        context.uc_stack.ss_size = Fibers::STACK;
        context.uc_link = &f.scheduler;
        makecontext(&context, fiber_main, 0);
    }
    for (unsigned done = 0; done < threads;) {
        for (unsigned i = 0; i < threads; ++i) {
            f.current = descending ? threads - 1 - i : i;
            if (!f.finished[f.current]) swapcontext(&f.scheduler, &f.contexts[f.current]);
        }
        done = static_cast<unsigned>(std::count(f.finished.begin(), f.finished.end(), 1));
        // Between two barriers either every thread goes on or every thread has returned.
        if (done != 0 && done != threads) {
            std::fprintf(stderr, "emulation: __syncthreads reached by %u of %u threads\n", threads - done, threads);
            std::abort();
        }
    }
}

template <class Body> void run_blocks(unsigned threads, bool descending, const Body& body) {
    for (std::size_t block = 0; block < block_count(); ++block) {
        clear_shared();
        blockIdx = block_at(block);
        run_block(threads, descending, body);
    }
}

#endif

// Calls `kernel` for every thread of every block. `arguments` are pointers to the values, as for
// cuLaunchKernel; `sizes` are the sizes the host believes they have. Returns the index of the first
// argument whose size is not the kernel's, or -1.
template <class... Parameters>
int launch(void (*kernel)(Parameters...), const unsigned* grid, const unsigned* block, unsigned shared, bool descending,
           void** arguments, const int* sizes, int count) {
    constexpr int expected[] = {static_cast<int>(sizeof(Parameters))...};
    if (count != static_cast<int>(sizeof...(Parameters))) return count;
    for (int i = 0; i < static_cast<int>(sizeof...(Parameters)); ++i)
        if (sizes[i] != expected[i]) return i;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    // malloc aligns to 16 bytes as the device does, and the sanitizer sees where it ends.
    std::unique_ptr<unsigned char, decltype(&std::free)> memory(
        static_cast<unsigned char*>(std::malloc(shared ? shared : 1)), &std::free);
    shared_memory = memory.get();
    shared_bytes = shared;
    [&]<std::size_t... I>(std::index_sequence<I...>) {
        const auto body = [&] { kernel(*static_cast<std::remove_cv_t<Parameters>*>(arguments[I])...); };
        run_blocks(block[0], descending, body);
    }(std::index_sequence_for<Parameters...>{});
    return -1;
}

}  // namespace emulation

inline void __syncthreads() { emulation::wait_for_block(); }
