// upfirdn2d on the GPU. The same text is compiled as plain C++ for the tests, with host_cuda.h in place of CUDA.
#include "launch.h"
#include "runtime.h"
#include "scalar.h"

namespace ggdr {
namespace {

// Any factors, any filter: each thread sums the taps of one output pixel. Index holds the number of pixels.
template <class T, class Index>
__global__ void __launch_bounds__(256) upfirdn2d_general(const T* in, const Accumulator<T>* filter, T* out, Upfirdn2dShape s) {
    using A = Accumulator<T>;
    const Index width = Index(s.x.out), height = Index(s.y.out), channels = Index(s.channels);
    const Index total = Index(s.batch) * channels * height * width;
    const bool channels_last = s.out_stride[1] == 1 && s.channels > 1;
    for (Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += Index(gridDim.x) * blockDim.x) {
        Index rest = i, c, ox, oy;  // neighbouring threads write neighbouring addresses
        if (channels_last) {
            c = rest % channels, rest /= channels;
            ox = rest % width, rest /= width;
            oy = rest % height, rest /= height;
        } else {
            ox = rest % width, rest /= width;
            oy = rest % height, rest /= height;
            c = rest % channels, rest /= channels;
        }
        const T* image = in + std::int64_t(rest) * s.in_stride[0] + std::int64_t(c) * s.in_stride[1];
        const std::int64_t first_x = s.x.first_input(ox), first_kx = s.x.first_tap(ox);
        std::int64_t y = s.y.first_input(oy);
        A sum = 0;
        for (std::int64_t ky = s.y.first_tap(oy); ky < s.y.taps; ky += s.y.up, ++y) {
            if (y < 0 || y >= s.y.in) continue;
            const A* taps = filter + (s.correlate ? ky : s.y.taps - 1 - ky) * s.x.taps;
            std::int64_t x = first_x;
            for (std::int64_t kx = first_kx; kx < s.x.taps; kx += s.x.up, ++x) {
                if (x < 0 || x >= s.x.in) continue;
                sum += widen(image[y * s.in_stride[2] + x * s.in_stride[3]]) * taps[s.correlate ? kx : s.x.taps - 1 - kx];
            }
        }
        out[std::int64_t(rest) * s.out_stride[0] + std::int64_t(c) * s.out_stride[1] + std::int64_t(oy) * s.out_stride[2] +
            std::int64_t(ox) * s.out_stride[3]] = narrow<T>(sum * A(s.gain));
    }
}

// Pixels and channels of a block's output. Neighbouring threads are neighbours along x, or in channels with LANES_FIRST.
template <int WIDTH_, int HEIGHT_, int LANES_, bool LANES_FIRST_>
struct Tile {
    static constexpr int WIDTH = WIDTH_, HEIGHT = HEIGHT_, LANES = LANES_;
    static constexpr bool LANES_FIRST = LANES_FIRST_;
};

// A position within [HEIGHT][WIDTH][LANES], or [LANES][HEIGHT][WIDTH], from its number.
template <class TILE, int WIDTH, int HEIGHT>
struct Place {
    int x, y, lane;
    GGDR_INLINE explicit Place(int i) {
        if constexpr (TILE::LANES_FIRST) lane = i % TILE::LANES, x = i / TILE::LANES % WIDTH, y = i / (TILE::LANES * WIDTH);
        else x = i % WIDTH, y = i / WIDTH % HEIGHT, lane = i / (WIDTH * HEIGHT);
    }
    static GGDR_INLINE int number(int x, int y, int lane) {
        return TILE::LANES_FIRST ? (y * WIDTH + x) * TILE::LANES + lane : (lane * HEIGHT + y) * WIDTH + x;
    }
};

// Where a block works. Axis offsets: `first` is the input position of the block's first input pixel, `phase` the tap of
// output 0 that meets it; output o starts at input rest(o) relative to `first`, with tap tap(o).
template <int UP, int DOWN>
struct BlockAxis {
    std::int64_t first, output;
    int phase;
    GGDR_INLINE BlockAxis(const Axis& axis, std::int64_t output_) : first(axis.first_input(output_)), output(output_), phase(int(axis.first_tap(output_))) {}
    GGDR_INLINE int rest(int o) const { return (o * DOWN - phase + UP - 1) / UP; }
    GGDR_INLINE int tap(int o) const { return rest(o) * UP + phase - o * DOWN; }
};

template <class TILE, int UP, int DOWN>
struct BlockPlace {
    std::int64_t sample, channel;
    BlockAxis<UP, DOWN> x, y;

    static GGDR_INLINE BlockPlace at(const Upfirdn2dShape& s, std::int64_t block) {
        const std::int64_t columns = ceil_div(s.x.out, TILE::WIDTH), rows = ceil_div(s.y.out, TILE::HEIGHT);
        const std::int64_t groups = ceil_div(s.channels, TILE::LANES), above = block / columns / rows;
        return {above / groups, above % groups * TILE::LANES, {s.x, block % columns * TILE::WIDTH}, {s.y, block / columns % rows * TILE::HEIGHT}};
    }
    GGDR_INLINE bool has_lane(const Upfirdn2dShape& s, int lane) const { return channel + lane < s.channels; }
    GGDR_INLINE bool has_output(const Upfirdn2dShape& s, int ox, int oy, int lane) const {
        return x.output + ox < s.x.out && y.output + oy < s.y.out && has_lane(s, lane);
    }
    GGDR_INLINE std::int64_t out_offset(const Upfirdn2dShape& s, int ox, int oy, int lane) const {
        return sample * s.out_stride[0] + (channel + lane) * s.out_stride[1] + (y.output + oy) * s.out_stride[2] + (x.output + ox) * s.out_stride[3];
    }
};

// Input pixels that SIZE outputs meet.
template <int SIZE, int UP, int DOWN, int TAPS>
GGDR_INLINE constexpr int input_size() {
    return ((SIZE - 1) * DOWN + TAPS - 1) / UP + 1;
}

// The block's input, zero outside the image.
template <class TILE, int WIDTH, int HEIGHT, class T, class PLACE>
__device__ void load_input(const T* in, const Upfirdn2dShape& s, const PLACE& place, Accumulator<T>* tile) {
    for (int i = threadIdx.x; i < WIDTH * HEIGHT * TILE::LANES; i += blockDim.x) {
        const Place<TILE, WIDTH, HEIGHT> at(i);
        const std::int64_t x = place.x.first + at.x, y = place.y.first + at.y;
        const bool inside = x >= 0 && x < s.x.in && y >= 0 && y < s.y.in && place.has_lane(s, at.lane);
        tile[i] = !inside ? Accumulator<T>(0)
                          : Accumulator<T>(widen(in[place.sample * s.in_stride[0] + (place.channel + at.lane) * s.in_stride[1] + y * s.in_stride[2] + x * s.in_stride[3]]));
    }
}

// Filters of 4 by 4 taps.
template <class T, int UP, int DOWN, class TILE>
__global__ void __launch_bounds__(256, 4) upfirdn2d_4x4(const T* in, const Accumulator<T>* filter, T* out, Upfirdn2dShape s, std::int64_t first_block) {
    using A = Accumulator<T>;
    constexpr int WIDTH = input_size<TILE::WIDTH, UP, DOWN, 4>(), HEIGHT = input_size<TILE::HEIGHT, UP, DOWN, 4>();
    using Input = Place<TILE, WIDTH, HEIGHT>;
    GGDR_SHARED(A, tile, WIDTH * HEIGHT * TILE::LANES);
    GGDR_SHARED(A, taps, 16);
    const auto place = BlockPlace<TILE, UP, DOWN>::at(s, first_block + blockIdx.x);
    if (threadIdx.x < 16) taps[threadIdx.x] = filter[s.correlate ? threadIdx.x : 15 - threadIdx.x] * A(s.gain);
    load_input<TILE, WIDTH, HEIGHT>(in, s, place, tile);
    __syncthreads();
    for (int i = threadIdx.x; i < TILE::WIDTH * TILE::HEIGHT * TILE::LANES; i += blockDim.x) {
        const Place<TILE, TILE::WIDTH, TILE::HEIGHT> at(i);
        if (!place.has_output(s, at.x, at.y, at.lane)) continue;
        const int x = place.x.rest(at.x), y = place.y.rest(at.y), kx = place.x.tap(at.x), ky = place.y.tap(at.y);
        A sum = 0;
#pragma unroll
        for (int jy = 0; jy < 4 / UP; ++jy)
#pragma unroll
            for (int jx = 0; jx < 4 / UP; ++jx)
                sum += tile[Input::number(x + jx, y + jy, at.lane)] * taps[(ky + jy * UP) * 4 + kx + jx * UP];
        out[place.out_offset(s, at.x, at.y, at.lane)] = narrow<T>(sum);
    }
}

constexpr int LONGEST = 12;

// Separable filters of up to 12 taps: along x, then along y, in shared memory.
template <class T, int UP, int DOWN, class TILE>
__global__ void __launch_bounds__(256, 4) upfirdn2d_separable(const T* in, const Accumulator<T>* filter, T* out, Upfirdn2dShape s, std::int64_t first_block) {
    using A = Accumulator<T>;
    constexpr int WIDTH = input_size<TILE::WIDTH, UP, DOWN, LONGEST>(), HEIGHT = input_size<TILE::HEIGHT, UP, DOWN, LONGEST>();
    using Input = Place<TILE, WIDTH, HEIGHT>;
    using Middle = Place<TILE, TILE::WIDTH, HEIGHT>;
    GGDR_SHARED(A, tile, WIDTH * HEIGHT * TILE::LANES);
    GGDR_SHARED(A, middle, TILE::WIDTH * HEIGHT * TILE::LANES);
    GGDR_SHARED(A, taps, LONGEST);
    const auto place = BlockPlace<TILE, UP, DOWN>::at(s, first_block + blockIdx.x);
    const int count = int(s.x.taps);
    if (int(threadIdx.x) < count) taps[threadIdx.x] = filter[s.correlate ? int(threadIdx.x) : count - 1 - int(threadIdx.x)];
    load_input<TILE, WIDTH, HEIGHT>(in, s, place, tile);
    __syncthreads();
    for (int i = threadIdx.x; i < TILE::WIDTH * HEIGHT * TILE::LANES; i += blockDim.x) {
        const Middle at(i);
        const int x = place.x.rest(at.x), k = place.x.tap(at.x);
        A sum = 0;
#pragma unroll
        for (int j = 0; j < LONGEST / UP; ++j)
            if (k + j * UP < count) sum += tile[Input::number(x + j, at.y, at.lane)] * taps[k + j * UP];
        middle[i] = sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < TILE::WIDTH * TILE::HEIGHT * TILE::LANES; i += blockDim.x) {
        const Place<TILE, TILE::WIDTH, TILE::HEIGHT> at(i);
        if (!place.has_output(s, at.x, at.y, at.lane)) continue;
        const int y = place.y.rest(at.y), k = place.y.tap(at.y);
        A sum = 0;
#pragma unroll
        for (int j = 0; j < LONGEST / UP; ++j)
            if (k + j * UP < count) sum += middle[Middle::number(at.x, y + j, at.lane)] * taps[k + j * UP];
        out[place.out_offset(s, at.x, at.y, at.lane)] = narrow<T>(sum * A(s.gain));
    }
}

constexpr int THREADS = 256;
constexpr std::int64_t MOST_BLOCKS = 0x7FFFFFFF;

bool channels_last(const Upfirdn2dShape& s) { return s.out_stride[1] == 1 && s.channels > 1; }

template <class T, class Index>
int run_general(const T* in, const Accumulator<T>* filter, T* out, const Upfirdn2dShape& s, cudaStream_t stream) {
    const std::int64_t blocks = ceil_div(s.batch * s.channels * s.y.out * s.x.out, THREADS);
    GGDR_LAUNCH((upfirdn2d_general<T, Index>), blocks < MOST_BLOCKS ? blocks : MOST_BLOCKS, THREADS, stream, in, filter, out, s);
    return int(cudaGetLastError());
}

template <class TILE, class KERNEL, class... ARGS>
int run_tiles(KERNEL kernel, const Upfirdn2dShape& s, cudaStream_t stream, ARGS... args) {
    const std::int64_t blocks =
        ceil_div(s.x.out, TILE::WIDTH) * ceil_div(s.y.out, TILE::HEIGHT) * ceil_div(s.channels, TILE::LANES) * s.batch;
    for (std::int64_t first = 0; first < blocks; first += MOST_BLOCKS) {
        const std::int64_t count = blocks - first < MOST_BLOCKS ? blocks - first : MOST_BLOCKS;
        GGDR_LAUNCH(kernel, count, THREADS, stream, args..., s, first);
    }
    return int(cudaGetLastError());
}

template <class T, int UP, int DOWN>
int run_tiled(const T* in, const Accumulator<T>* filter, T* out, const Upfirdn2dShape& s, cudaStream_t stream) {
    // Shared memory stays under 48 KiB, the most that every architecture gives without asking.
    constexpr int LANES = 64 / int(sizeof(Accumulator<T>));
    using Wide = Tile<32, 16, 1, false>;
    using Small = Tile<8, 8, 8, false>;
    using Lanes = Tile<8, 4, LANES, true>;
    if (s.separable) {
        if (channels_last(s)) return run_tiles<Lanes>(upfirdn2d_separable<T, UP, DOWN, Lanes>, s, stream, in, filter, out);
        return run_tiles<Wide>(upfirdn2d_separable<T, UP, DOWN, Wide>, s, stream, in, filter, out);
    }
    if (channels_last(s)) return run_tiles<Lanes>(upfirdn2d_4x4<T, UP, DOWN, Lanes>, s, stream, in, filter, out);
    if (s.x.out <= Small::WIDTH && s.channels >= Small::LANES)
        return run_tiles<Small>(upfirdn2d_4x4<T, UP, DOWN, Small>, s, stream, in, filter, out);
    return run_tiles<Wide>(upfirdn2d_4x4<T, UP, DOWN, Wide>, s, stream, in, filter, out);
}

template <class T>
int run(const void* in_, const void* filter_, void* out_, const Upfirdn2dShape& s, cudaStream_t stream) {
    const T* in = static_cast<const T*>(in_);
    const auto* filter = static_cast<const Accumulator<T>*>(filter_);
    T* out = static_cast<T*>(out_);
    if (upfirdn2d_is_tiled(s)) {
        if (s.x.up == 2) return run_tiled<T, 2, 1>(in, filter, out, s, stream);
        if (s.x.down == 2) return run_tiled<T, 1, 2>(in, filter, out, s, stream);
        return run_tiled<T, 1, 1>(in, filter, out, s, stream);
    }
    // Counting in 32 bits must not wrap when a thread steps past the end.
    const bool small = s.batch * s.channels * s.y.out * s.x.out < (std::int64_t(1) << 31) - THREADS;
    return small ? run_general<T, std::uint32_t>(in, filter, out, s, stream) : run_general<T, std::uint64_t>(in, filter, out, s, stream);
}

}  // namespace

bool upfirdn2d_is_tiled(const Upfirdn2dShape& s) {
    if (s.x.up != s.y.up || s.x.down != s.y.down || s.x.up * s.x.down > 2) return false;
    return s.separable ? s.x.taps <= LONGEST : s.x.taps == 4 && s.y.taps == 4;
}

int launch_upfirdn2d(Scalar type, const void* in, const void* filter, void* out, const Upfirdn2dShape& shape, void* stream_) {
    const auto stream = static_cast<cudaStream_t>(stream_);
    switch (type) {
        case Scalar::float16: return run<Half>(in, filter, out, shape, stream);
        case Scalar::bfloat16: return run<BFloat16>(in, filter, out, shape, stream);
        case Scalar::float32: return run<float>(in, filter, out, shape, stream);
        case Scalar::float64: return run<double>(in, filter, out, shape, stream);
    }
    return -1;
}

}  // namespace ggdr
