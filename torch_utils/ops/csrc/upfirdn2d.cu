// upfirdn2d on the GPU. The same text is compiled as plain C++ for the tests, with host_cuda.h in place of CUDA.
#include <algorithm>
#include <cstdlib>
#include <type_traits>

#include "divider.h"
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

// What a block puts out: WIDTH by HEIGHT pixels of PLANES channels. A thread computes OX by OY neighbouring pixels of one
// channel. Neighbouring threads are neighbours along x, or in channels with LANES_FIRST.
template <int WIDTH_, int HEIGHT_, int PLANES_, int OX_, int OY_, bool LANES_FIRST_ = false>
struct Tile {
    static constexpr int WIDTH = WIDTH_, HEIGHT = HEIGHT_, PLANES = PLANES_, OX = OX_, OY = OY_;
    static constexpr bool LANES_FIRST = LANES_FIRST_;
};

constexpr int THREADS = 256;

// Input pixels that SIZE outputs meet, where the first output starts at the first of them with tap 0.
template <int SIZE, int UP, int DOWN, int TAPS>
GGDR_INLINE constexpr int input_size() {
    return ((SIZE - 1) * DOWN + TAPS - 1) / UP + 1;
}

template <int SIZE, int MULTIPLE>
GGDR_INLINE constexpr int rounded_up() {
    return (SIZE + MULTIPLE - 1) / MULTIPLE * MULTIPLE;
}

// Output o of a block or a strip starts at input pixel start(o), which meets tap first_tap(o). The tiles are laid so that
// output 0 starts at pixel 0 with tap 0: where padding is such that the image's output 0 starts with tap 1, they begin one
// output before the image.
template <int UP, int DOWN>
GGDR_INLINE constexpr int start(int o) {
    return (o * DOWN + UP - 1) / UP;
}
template <int UP, int DOWN>
GGDR_INLINE constexpr int first_tap(int o) {
    return start<UP, DOWN>(o) * UP - o * DOWN;
}

// One axis of a tiled launch: sizes, and what the first tile begins with.
struct TiledAxis {
    int in, out, first_input, first_output;
};

// A launch in tiles. Positions and strides within an image take 32 bits; the index of a thread's first pixel takes 64.
struct Tiled {
    TiledAxis x, y;
    int channels, in_pixel, in_row, out_pixel, out_row;
    std::int64_t in_channel, in_sample, out_channel, out_sample;
    Divider columns, rows, groups;
    int taps;
    bool correlate;
    bool stores_packs;  // a thread's pixels in a row may be written at once
    float gain;
};

// A block's place along one axis: the first input and output of its tile.
struct BlockAxis {
    int input, output;
};

template <class TILE, int UP, int DOWN, int LANES>
struct BlockPlace {
    int channel;
    BlockAxis x, y;
    std::int64_t in_offset, out_offset;  // of the image's first pixel in the block's first channel

    static GGDR_INLINE BlockPlace at(const Tiled& s, std::uint32_t block) {
        const std::uint32_t strip = s.columns.quotient(block), above = s.rows.quotient(strip), sample = s.groups.quotient(above);
        const int column = int(s.columns.rest(block, strip)), row = int(s.rows.rest(strip, above));
        const int channel = int(s.groups.rest(above, sample)) * LANES;
        const BlockAxis x{s.x.first_input + column * (TILE::WIDTH * DOWN / UP), s.x.first_output + column * TILE::WIDTH};
        const BlockAxis y{s.y.first_input + row * (TILE::HEIGHT * DOWN / UP), s.y.first_output + row * TILE::HEIGHT};
        return {channel, x, y, sample * s.in_sample + channel * s.in_channel, sample * s.out_sample + channel * s.out_channel};
    }
};

GGDR_INLINE bool inside(int position, int size) { return unsigned(position) < unsigned(size); }

// The block's input to shared memory, zero outside the image. With LOADS 2, pixels are read in pairs. A thread keeps its
// column and goes on by whole rows, or by whole planes where these are small; a few threads have nothing to do.
template <class TILE, int WIDTH, int HEIGHT, int PITCH, int LOADS, class T, class PLACE>
__device__ __forceinline__ void load_tile(const T* in, const Tiled& s, const PLACE& place, float* tile) {
    static_assert(LOADS == 1 || (TILE::PLANES == 1 && WIDTH / 2 * 2 + 2 <= PITCH));
    constexpr int COLUMNS = LOADS == 1 ? WIDTH : WIDTH / 2 + 1, LANES = TILE::LANES_FIRST ? TILE::PLANES : 1, LINE = COLUMNS * LANES;
    constexpr int ROWS = THREADS / LINE < HEIGHT ? THREADS / LINE : HEIGHT;  // at once
    constexpr int ROOM = THREADS / (LINE * ROWS), PLANES = LANES > 1 || ROOM > TILE::PLANES ? TILE::PLANES / LANES : ROOM;
    static_assert(TILE::PLANES % (PLANES * LANES) == 0);
    if (threadIdx.x >= unsigned(LINE * ROWS * PLANES)) return;
    const unsigned pixel = threadIdx.x / LANES;
    const int plane = int(LANES > 1 ? threadIdx.x % LANES : pixel / (COLUMNS * ROWS)), row = int(pixel / COLUMNS % ROWS);
    const int shift = LOADS == 1 ? 0 : place.x.input & 1;  // pairs begin at even positions
    const int column = int(pixel % COLUMNS) * LOADS - shift, x = place.x.input + column, y = place.y.input + row;
    const bool inside_x = inside(x, s.x.in);
    std::int64_t from = place.in_offset + plane * s.in_channel + std::int64_t(y) * s.in_row + std::int64_t(x) * s.in_pixel;
    GGDR_KEEP(from);
    float* to = tile + (plane * HEIGHT + row) * PITCH + column;
#pragma unroll
    for (int p = 0; p < TILE::PLANES / LANES; p += PLANES) {
        const bool has_column = inside_x && (TILE::PLANES == 1 || place.channel + plane + p < s.channels);
#pragma unroll
        for (int r = 0; r < HEIGHT; r += ROWS) {
            Pack<T, LOADS> values{};
            if (has_column && inside(y + r, s.y.in)) values = *reinterpret_cast<const Pack<T, LOADS>*>(in + from + p * s.in_channel + std::int64_t(r) * s.in_row);
#pragma unroll
            for (int k = 0; k < LOADS; ++k)
                if ((HEIGHT - r >= ROWS || row < HEIGHT - r) && (LOADS == 1 || column + k >= 0)) to[(p * HEIGHT + r) * PITCH + k] = widen(values.values[k]);
        }
    }
}

// Which strip of a tile a thread computes.
template <class TILE>
struct Strip {
    int x, y, plane;  // in strips

    __device__ __forceinline__ Strip() {
        constexpr unsigned XS = TILE::WIDTH / TILE::OX, YS = TILE::HEIGHT / TILE::OY, PLANES = TILE::PLANES;
        static_assert(XS * YS * PLANES == THREADS);
        const unsigned pixel = TILE::LANES_FIRST ? threadIdx.x / PLANES : threadIdx.x;
        x = int(pixel % XS), y = int(PLANES == 1 || TILE::LANES_FIRST ? pixel / XS : pixel / XS % YS);
        plane = int(PLANES == 1 ? 0 : TILE::LANES_FIRST ? threadIdx.x % PLANES : threadIdx.x / (XS * YS));
    }
};

// SIZE numbers of a row in shared memory, which begin at a multiple of STEP.
template <int SIZE, int STEP>
__device__ __forceinline__ void read_row(const float* from, float* values) {
    constexpr int PACK = STEP % 4 == 0 ? 4 : STEP % 2 == 0 ? 2 : 1;
#pragma unroll
    for (int i = 0; i < SIZE; i += PACK) {
        const auto pack = *reinterpret_cast<const Pack<float, PACK>*>(from + i);
#pragma unroll
        for (int k = 0; k < PACK; ++k)
            if (i + k < SIZE) values[i + k] = pack.values[k];
    }
}

// OX by OY outputs of one channel, from pixel (x, y) of the tile on.
template <class TILE, int OX, int OY, class T, class PLACE>
__device__ __forceinline__ void store(T* out, const Tiled& s, const PLACE& place, int x, int y, int plane, const float (&sums)[OY][OX]) {
    if (TILE::PLANES > 1 && place.channel + plane >= s.channels) return;
    const int column = place.x.output + x, row = place.y.output + y, out_pixel = TILE::LANES_FIRST ? s.out_pixel : 1;
    std::int64_t to = place.out_offset + plane * s.out_channel + std::int64_t(row) * s.out_row + std::int64_t(column) * out_pixel;
    GGDR_KEEP(to);
#pragma unroll
    for (int oy = 0; oy < OY; ++oy, to += s.out_row) {
        if (!inside(row + oy, s.y.out)) continue;
        Pack<T, OX> values;
#pragma unroll
        for (int ox = 0; ox < OX; ++ox) values.values[ox] = narrow<T>(sums[oy][ox]);
        if (s.stores_packs && column + OX <= s.x.out) {
            *reinterpret_cast<Pack<T, OX>*>(out + to) = values;
        } else {
#pragma unroll
            for (int ox = 0; ox < OX; ++ox)
                if (inside(column + ox, s.x.out)) out[to + ox * out_pixel] = values.values[ox];
        }
    }
}

// Adds to a thread's sums what one row of its input gives: taps 0 .. TAPS-1 of output o meet positions start(o) on.
template <int OX, int UP, int DOWN, int TAPS>
__device__ __forceinline__ void add_row(const float* row, const float* taps, float* sums, int count = TAPS) {
#pragma unroll
    for (int ox = 0; ox < OX; ++ox)
#pragma unroll
        for (int jx = 0; jx < TAPS / UP; ++jx) {
            const int kx = first_tap<UP, DOWN>(ox) + jx * UP;
            if (kx < count) sums[ox] += row[start<UP, DOWN>(ox) + jx] * taps[kx];
        }
}

// The 16 taps, in the order of use and with the gain.
__device__ __forceinline__ void load_4x4_taps(const float* filter, const Tiled& s, float* taps) {
    const int i = int(threadIdx.x);
    if (i < 16) taps[i] = filter[s.correlate ? i : 15 - i] * s.gain;
}

// Filters of 4 by 4 taps.
template <class T, int UP, int DOWN, class TILE, int LOADS>
__global__ void __launch_bounds__(THREADS) upfirdn2d_4x4(const T* in, const float* filter, T* out, Tiled s) {
    constexpr int OX = TILE::OX, OY = TILE::OY, STEP_X = OX * DOWN / UP, STEP_Y = OY * DOWN / UP;
    constexpr int WIDTH = input_size<TILE::WIDTH, UP, DOWN, 4>(), HEIGHT = input_size<TILE::HEIGHT, UP, DOWN, 4>(), PITCH = rounded_up<WIDTH + 1, 4>();
    constexpr int COLUMNS = input_size<OX, UP, DOWN, 4>(), ROWS = input_size<OY, UP, DOWN, 4>();
    static_assert(TILE::WIDTH * DOWN / UP - STEP_X + rounded_up<COLUMNS, 4>() <= PITCH);
    GGDR_SHARED(float, tile, TILE::PLANES * HEIGHT * PITCH);
    GGDR_SHARED(float, shared_taps, 16);
    const auto place = BlockPlace<TILE, UP, DOWN, TILE::PLANES>::at(s, blockIdx.x);
    load_4x4_taps(filter, s, shared_taps);
    load_tile<TILE, WIDTH, HEIGHT, PITCH, LOADS>(in, s, place, tile);
    __syncthreads();
    const Strip<TILE> strip;
    const float* from = tile + (strip.plane * HEIGHT + strip.y * STEP_Y) * PITCH + strip.x * STEP_X;
    float taps[16], sums[OY][OX] = {};
    read_row<16, 4>(shared_taps, taps);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        float row[COLUMNS];
        read_row<COLUMNS, STEP_X>(from + r * PITCH, row);
#pragma unroll
        for (int oy = 0; oy < OY; ++oy) {
            const int jy = r - start<UP, DOWN>(oy);
            if (jy >= 0 && jy < 4 / UP) add_row<OX, UP, DOWN, 4>(row, taps + (first_tap<UP, DOWN>(oy) + jy * UP) * 4, sums[oy]);
        }
    }
    store<TILE>(out, s, place, strip.x * OX, strip.y * OY, strip.plane, sums);
}

// Filters of 4 by 4 taps over channels-last images: a thread computes OX pixels of SIZE neighbouring channels.
template <class T, int UP, int DOWN, class TILE, int SIZE>
__global__ void __launch_bounds__(THREADS) upfirdn2d_4x4_channels(const T* in, const float* filter, T* out, Tiled s) {
    using Values = Pack<T, SIZE>;
    constexpr int OX = TILE::OX, XS = TILE::WIDTH / OX, PACKS = TILE::PLANES, STEP_X = OX * DOWN / UP;
    constexpr int WIDTH = input_size<TILE::WIDTH, UP, DOWN, 4>(), HEIGHT = input_size<TILE::HEIGHT, UP, DOWN, 4>();
    constexpr int PITCH = WIDTH / 2 * 2 + 1;  // odd, so that rows do not share banks
    constexpr int COLUMNS = input_size<OX, UP, DOWN, 4>(), ROWS = THREADS / (WIDTH * PACKS) < HEIGHT ? THREADS / (WIDTH * PACKS) : HEIGHT;
    static_assert(TILE::LANES_FIRST && TILE::OY == 1 && XS * TILE::HEIGHT * PACKS == THREADS);
    GGDR_SHARED(Values, tile, HEIGHT * PITCH * PACKS);
    GGDR_SHARED(float, shared_taps, 16);
    const auto place = BlockPlace<TILE, UP, DOWN, PACKS * SIZE>::at(s, blockIdx.x);
    load_4x4_taps(filter, s, shared_taps);
    const int thread = int(threadIdx.x), pack = int(threadIdx.x % PACKS), channel = pack * SIZE;
    const bool has_channels = place.channel + channel < s.channels;
    if (thread < ROWS * WIDTH * PACKS) {
        const int column = int(threadIdx.x / PACKS % WIDTH), row = int(threadIdx.x / (PACKS * WIDTH)), x = place.x.input + column, y = place.y.input + row;
        const bool inside_x = has_channels && inside(x, s.x.in);
        std::int64_t from = place.in_offset + channel + std::int64_t(y) * s.in_row + std::int64_t(x) * s.in_pixel;
        GGDR_KEEP(from);
        Values* to = tile + (row * PITCH + column) * PACKS + pack;
#pragma unroll
        for (int r = 0; r < HEIGHT; r += ROWS) {
            Values values{};
            if (inside_x && inside(y + r, s.y.in)) values = *reinterpret_cast<const Values*>(in + from + std::int64_t(r) * s.in_row);
            if (HEIGHT - r >= ROWS || row < HEIGHT - r) to[r * PITCH * PACKS] = values;
        }
    }
    __syncthreads();
    const int y = int(threadIdx.x / PACKS % TILE::HEIGHT), sx = int(threadIdx.x / (PACKS * TILE::HEIGHT));
    float taps[16], sums[OX][SIZE] = {};
    read_row<16, 4>(shared_taps, taps);
#pragma unroll
    for (int jy = 0; jy < 4 / UP; ++jy) {
        const Values* from = tile + ((start<UP, DOWN>(y) + jy) * PITCH + sx * STEP_X) * PACKS + pack;
        read_row<4, 4>(shared_taps + (first_tap<UP, DOWN>(y) + jy * UP) * 4, taps);
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
            const Values values = from[c * PACKS];
#pragma unroll
            for (int ox = 0; ox < OX; ++ox) {
                const int jx = c - start<UP, DOWN>(ox);
                if (jx < 0 || jx >= 4 / UP) continue;
#pragma unroll
                for (int k = 0; k < SIZE; ++k) sums[ox][k] += widen(values.values[k]) * taps[first_tap<UP, DOWN>(ox) + jx * UP];
            }
        }
    }
    if (!has_channels || !inside(place.y.output + y, s.y.out)) return;
    const int column = place.x.output + sx * OX;
    out += place.out_offset + channel + std::int64_t(place.y.output + y) * s.out_row + std::int64_t(column) * s.out_pixel;
#pragma unroll
    for (int ox = 0; ox < OX; ++ox) {
        Values values;
#pragma unroll
        for (int k = 0; k < SIZE; ++k) values.values[k] = narrow<T>(sums[ox][k]);
        if (inside(column + ox, s.x.out)) *reinterpret_cast<Values*>(out + ox * s.out_pixel) = values;
    }
}

constexpr int LONGEST = 12;

// Separable filters of up to 12 taps: along x, then along y, in shared memory. With TAPS 12 the number of taps is known.
template <class T, int UP, int DOWN, class TILE, int TAPS>
__global__ void __launch_bounds__(THREADS) upfirdn2d_separable(const T* in, const float* filter, T* out, Tiled s) {
    constexpr int OX = TILE::OX, OY = TILE::OY, STEP_Y = OY * DOWN / UP;
    constexpr int WIDTH = input_size<TILE::WIDTH, UP, DOWN, LONGEST>(), HEIGHT = input_size<TILE::HEIGHT, UP, DOWN, LONGEST>();
    constexpr int PITCH = rounded_up<WIDTH + 1, 4>(), LINE = TILE::WIDTH, PLANES = TILE::PLANES;
    constexpr int ACROSS = 4, STRIPS = TILE::WIDTH / ACROSS, STEP_X = ACROSS * DOWN / UP;  // a strip of the pass along x
    constexpr int COLUMNS = input_size<ACROSS, UP, DOWN, LONGEST>(), ROWS = input_size<OY, UP, DOWN, LONGEST>();
    constexpr int COUNT = PLANES * HEIGHT * STRIPS;
    static_assert((STRIPS - 1) * STEP_X + rounded_up<COLUMNS, 4>() <= PITCH);
    GGDR_SHARED(float, tile, PLANES * HEIGHT * PITCH);
    GGDR_SHARED(float, middle, PLANES * HEIGHT * LINE);
    GGDR_SHARED(float, shared_taps, LONGEST);
    const auto place = BlockPlace<TILE, UP, DOWN, PLANES>::at(s, blockIdx.x);
    const int thread = int(threadIdx.x), count = TAPS > 0 ? TAPS : s.taps;
    if (thread < LONGEST) shared_taps[thread] = thread < count ? filter[s.correlate ? thread : count - 1 - thread] : 0.0f;
    load_tile<TILE, WIDTH, HEIGHT, PITCH, 1>(in, s, place, tile);
    __syncthreads();
    float taps[LONGEST];
    read_row<LONGEST, 4>(shared_taps, taps);
#pragma unroll
    for (int first = 0; first < COUNT; first += THREADS) {
        const unsigned i = unsigned(first) + threadIdx.x, sx = i % STRIPS, line = i / STRIPS;
        if (COUNT - first < THREADS && i >= COUNT) break;
        float row[COLUMNS];
        Pack<float, ACROSS> sums{};
        read_row<COLUMNS, STEP_X>(tile + line * PITCH + sx * STEP_X, row);
        add_row<ACROSS, UP, DOWN, LONGEST>(row, taps, sums.values, count);
        *reinterpret_cast<Pack<float, ACROSS>*>(middle + line * LINE + sx * ACROSS) = sums;
    }
    __syncthreads();
    const Strip<TILE> strip;
    const float* from = middle + (strip.plane * HEIGHT + strip.y * STEP_Y) * LINE + strip.x * OX;
    float sums[OY][OX] = {};
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        float row[OX];
        read_row<OX, OX>(from + r * LINE, row);
#pragma unroll
        for (int oy = 0; oy < OY; ++oy) {
            const int jy = r - start<UP, DOWN>(oy), ky = first_tap<UP, DOWN>(oy) + jy * UP;
            if (jy < 0 || jy >= LONGEST / UP || ky >= count) continue;
#pragma unroll
            for (int ox = 0; ox < OX; ++ox) sums[oy][ox] += row[ox] * taps[ky];
        }
    }
#pragma unroll
    for (int oy = 0; oy < OY; ++oy)
#pragma unroll
        for (int ox = 0; ox < OX; ++ox) sums[oy][ox] *= s.gain;
    store<TILE>(out, s, place, strip.x * OX, strip.y * OY, strip.plane, sums);
}

constexpr std::int64_t MOST_BLOCKS = 0x7FFFFFFF;
constexpr std::int64_t LARGEST = 1 << 28;  // size or stride of what is taken in tiles, so that a sum of a few has 32 bits

bool channels_last(const Upfirdn2dShape& s) { return s.out_stride[1] == 1 && s.channels > 1; }

template <class T, class Index>
int run_general(const T* in, const Accumulator<T>* filter, T* out, const Upfirdn2dShape& s, cudaStream_t stream) {
    const std::int64_t blocks = ceil_div(s.batch * s.channels * s.y.out * s.x.out, THREADS);
    GGDR_LAUNCH((upfirdn2d_general<T, Index>), blocks < MOST_BLOCKS ? blocks : MOST_BLOCKS, THREADS, stream, in, filter, out, s);
    return int(cudaGetLastError());
}

// Whether packs of `size` elements from `data` on lie in memory as packs, by the strides of all but the packed dimension.
template <class T>
bool packs_fit(const T* data, int size, const std::int64_t (&stride)[4], int packed) {
    bool fit = reinterpret_cast<std::uintptr_t>(data) % (sizeof(T) * size) == 0 && stride[packed] == 1;
    for (int i = 0; i < 4; ++i) fit = fit && (i == packed || stride[i] % size == 0);
    return fit;
}

TiledAxis tiled_axis(const Axis& axis) {
    const int before = int(axis.first_tap(0));  // 1 where output 0 starts with tap 1
    return {int(axis.in), int(axis.out), int(axis.first_input(-before)), -before};
}

// A launch over tiles of TILE's pixels and `lanes` channels.
template <class TILE>
struct Grid {
    std::int64_t columns, rows, groups;

    Grid(const Upfirdn2dShape& s, int lanes)
        : columns(ceil_div(s.x.out + s.x.first_tap(0), TILE::WIDTH)), rows(ceil_div(s.y.out + s.y.first_tap(0), TILE::HEIGHT)), groups(ceil_div(s.channels, lanes)) {}
    std::int64_t blocks() const { return columns * rows * groups; }  // of one image
};

template <class TILE, class KERNEL, class T>
int run_tiles(KERNEL kernel, int lanes, const T* in, const float* filter, T* out, const Upfirdn2dShape& s, bool stores_packs, cudaStream_t stream) {
    const Grid<TILE> grid(s, lanes);
    const Tiled tiled{tiled_axis(s.x), tiled_axis(s.y), int(s.channels), int(s.in_stride[3]), int(s.in_stride[2]), int(s.out_stride[3]), int(s.out_stride[2]),
                      s.in_stride[1], s.in_stride[0], s.out_stride[1], s.out_stride[0], Divider(grid.columns), Divider(grid.rows), Divider(grid.groups),
                      int(s.x.taps), s.correlate, stores_packs, float(s.gain)};
    const std::int64_t most = MOST_BLOCKS / grid.blocks();  // images a launch
    for (std::int64_t first = 0; first < s.batch; first += most) {
        const std::int64_t count = s.batch - first < most ? s.batch - first : most;
        const T* from = in + first * s.in_stride[0];
        T* to = out + first * s.out_stride[0];
        GGDR_LAUNCH(kernel, count * grid.blocks(), THREADS, stream, from, filter, to, tiled);
    }
    return int(cudaGetLastError());
}

// What a launch costs, about: pixels read and written, those that do not exist included.
template <class TILE, int UP, int DOWN, int TAPS>
std::int64_t work(const Upfirdn2dShape& s) {
    constexpr int READ = input_size<TILE::WIDTH, UP, DOWN, TAPS>() * input_size<TILE::HEIGHT, UP, DOWN, TAPS>();
    return Grid<TILE>(s, TILE::PLANES).blocks() * TILE::PLANES * (READ + TILE::WIDTH * TILE::HEIGHT);
}

// Shared memory stays under 48 KiB, the most that every architecture gives without asking.
template <class T, int UP, int DOWN>
int run_tiled(const T* in, const float* filter, T* out, const Upfirdn2dShape& s, cudaStream_t stream) {
    constexpr bool SHRINKS = DOWN == 2;
    using Large = std::conditional_t<SHRINKS, Tile<32, 32, 1, 2, 2>, Tile<64, 32, 1, 4, 2>>;
    using Small = std::conditional_t<SHRINKS, Tile<8, 8, 16, 2, 2>, Tile<16, 8, 16, 4, 2>>;
    using Lanes = std::conditional_t<SHRINKS, Tile<8, 32, 4, 2, 2, true>, Tile<16, 32, 4, 4, 2, true>>;
    using Separable = std::conditional_t<SHRINKS, Tile<32, 32, 1, 2, 2>, Tile<64, 32, 1, 2, 4>>;
    using SeparableLanes = std::conditional_t<SHRINKS, Tile<16, 16, 4, 2, 2, true>, Tile<32, 16, 4, 2, 4, true>>;
    using Channels = std::conditional_t<SHRINKS, Tile<8, 16, 4, 2, 1, true>, Tile<16, 16, 4, 4, 1, true>>;
    constexpr int SIZE = 16 / int(sizeof(T));
    const bool starts_even = s.x.first_tap(0) == 0;
    if (s.separable) {
        const bool packs = starts_even && packs_fit(out, 2, s.out_stride, 3);
        if (channels_last(s)) {
            const auto kernel = s.x.taps == LONGEST ? upfirdn2d_separable<T, UP, DOWN, SeparableLanes, LONGEST> : upfirdn2d_separable<T, UP, DOWN, SeparableLanes, 0>;
            return run_tiles<SeparableLanes>(kernel, SeparableLanes::PLANES, in, filter, out, s, packs, stream);
        }
        const auto kernel = s.x.taps == LONGEST ? upfirdn2d_separable<T, UP, DOWN, Separable, LONGEST> : upfirdn2d_separable<T, UP, DOWN, Separable, 0>;
        return run_tiles<Separable>(kernel, 1, in, filter, out, s, packs, stream);
    }
    const bool packs = starts_even && packs_fit(out, Large::OX, s.out_stride, 3);
    if (channels_last(s)) {
        if (s.channels % SIZE == 0 && packs_fit(in, SIZE, s.in_stride, 1) && packs_fit(out, SIZE, s.out_stride, 1))
            return run_tiles<Channels>(upfirdn2d_4x4_channels<T, UP, DOWN, Channels, SIZE>, Channels::PLANES * SIZE, in, filter, out, s, false, stream);
        return run_tiles<Lanes>(upfirdn2d_4x4<T, UP, DOWN, Lanes, 1>, Lanes::PLANES, in, filter, out, s, packs, stream);
    }
    if (work<Small, UP, DOWN, 4>(s) < work<Large, UP, DOWN, 4>(s)) {
        return run_tiles<Small>(upfirdn2d_4x4<T, UP, DOWN, Small, 1>, Small::PLANES, in, filter, out, s, packs, stream);
    }
    if (s.x.in % 2 == 0 && packs_fit(in, 2, s.in_stride, 3)) return run_tiles<Large>(upfirdn2d_4x4<T, UP, DOWN, Large, 2>, 1, in, filter, out, s, packs, stream);
    return run_tiles<Large>(upfirdn2d_4x4<T, UP, DOWN, Large, 1>, 1, in, filter, out, s, packs, stream);
}

template <class T>
int run(Scalar type, const void* in_, const void* filter_, void* out_, const Upfirdn2dShape& s, cudaStream_t stream) {
    const T* in = static_cast<const T*>(in_);
    const auto* filter = static_cast<const Accumulator<T>*>(filter_);
    T* out = static_cast<T*>(out_);
    if constexpr (std::is_same_v<Accumulator<T>, float>) {
        if (upfirdn2d_is_tiled(type, s)) {
            if (s.x.up == 2) return run_tiled<T, 2, 1>(in, filter, out, s, stream);
            if (s.x.down == 2) return run_tiled<T, 1, 2>(in, filter, out, s, stream);
            return run_tiled<T, 1, 1>(in, filter, out, s, stream);
        }
    }
    if (s.separable) return int(cudaErrorInvalidValue);  // one launch for each axis, instead
    // Counting in 32 bits must not wrap when a thread steps past the end.
    const bool small = s.batch * s.channels * s.y.out * s.x.out < (std::int64_t(1) << 31) - THREADS;
    return small ? run_general<T, std::uint32_t>(in, filter, out, s, stream) : run_general<T, std::uint64_t>(in, filter, out, s, stream);
}

}  // namespace

bool upfirdn2d_is_tiled(Scalar type, const Upfirdn2dShape& s) {
    if (type == Scalar::float64) return false;
    if (s.x.up != s.y.up || s.x.down != s.y.down || s.x.up * s.x.down > 2) return false;
    const auto fits = [](const Axis& axis) { return std::max({axis.in, axis.out, std::abs(axis.pad)}) < LARGEST; };
    const auto near = [](const std::int64_t (&stride)[4]) { return std::max(stride[2], stride[3]) < LARGEST; };
    if (!fits(s.x) || !fits(s.y) || s.channels >= LARGEST || !near(s.in_stride) || !near(s.out_stride)) return false;
    return s.separable ? s.x.taps <= LONGEST : s.x.taps == 4 && s.y.taps == 4;
}

int launch_upfirdn2d(Scalar type, const void* in, const void* filter, void* out, const Upfirdn2dShape& shape, void* stream_) {
    const auto stream = static_cast<cudaStream_t>(stream_);
    switch (type) {
        case Scalar::float16: return run<Half>(type, in, filter, out, shape, stream);
        case Scalar::bfloat16: return run<BFloat16>(type, in, filter, out, shape, stream);
        case Scalar::float32: return run<float>(type, in, filter, out, shape, stream);
        case Scalar::float64: return run<double>(type, in, filter, out, shape, stream);
    }
    return -1;
}

}  // namespace ggdr
