// upfirdn2d on the CPU: loops over rows that the compiler vectorises.
//
// The filter is a sum of products of a column and a row, f = sum_r v_r h_r^T: one term where it is separable, as all
// filters of StyleGAN2 are, else one term for each of its rows. A term costs one pass over the input rows that an output
// row needs (vectorised along the row, whatever the factors) and one pass along the row.
//
// An image is [height][width][lanes]: channels-last has its channels as lanes, a contiguous tensor is N*C images of one lane.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "cpu.h"
#include "scalar.h"

namespace ggdr {
namespace {

template <class Acc>
struct FilterTerm {
    std::vector<Acc> column, row;
};

// f[y][x], already in the order of correlation, as a sum of terms.
template <class Acc>
std::vector<FilterTerm<Acc>> factorise(const std::vector<Acc>& f, std::int64_t height, std::int64_t width) {
    std::int64_t pivot = 0;
    for (std::int64_t i = 1; i < height * width; ++i)
        if (std::abs(f[i]) > std::abs(f[pivot])) pivot = i;
    FilterTerm<Acc> term{std::vector<Acc>(height), std::vector<Acc>(width)};
    const std::int64_t py = pivot / width, px = pivot % width;
    for (std::int64_t y = 0; y < height; ++y) term.column[y] = f[y * width + px];
    for (std::int64_t x = 0; x < width; ++x) term.row[x] = f[pivot] == 0 ? Acc(0) : f[py * width + x] / f[pivot];
    // What an outer product computed in float loses to rounding.
    const Acc tolerance = 4 * Acc(sizeof(Acc) == 4 ? 0x1p-24 : 0x1p-53) * std::abs(f[pivot]);
    bool separable = true;
    for (std::int64_t i = 0; i < height * width; ++i)
        separable = separable && std::abs(f[i] - term.column[i / width] * term.row[i % width]) <= tolerance;
    if (separable) return {term};
    std::vector<FilterTerm<Acc>> terms;
    for (std::int64_t y = 0; y < height; ++y) {
        FilterTerm<Acc> one{std::vector<Acc>(height, Acc(0)), std::vector<Acc>(f.begin() + y * width, f.begin() + (y + 1) * width)};
        one.column[y] = 1;
        terms.push_back(one);
    }
    return terms;
}

// to[i] (+)= sum of count rows times their weights.
template <int COUNT, bool ADD, class T, class Acc>
void combine_rows(const T* const* rows, const Acc* weights, std::int64_t size, Acc* __restrict to) {
    const T* __restrict r[COUNT];
    Acc w[COUNT];
    for (int k = 0; k < COUNT; ++k) r[k] = rows[k], w[k] = weights[k];
#pragma GCC ivdep
    for (std::int64_t i = 0; i < size; ++i) {
        Acc sum = ADD ? to[i] : Acc(0);
        for (int k = 0; k < COUNT; ++k) sum += w[k] * widen(r[k][i]);
        to[i] = sum;
    }
}

template <class T, class Acc>
void combine_rows(const T* const* rows, const Acc* weights, std::int64_t count, std::int64_t size, Acc* to) {
    switch (std::min<std::int64_t>(count, 4)) {
        case 0: std::fill(to, to + size, Acc(0)); return;
        case 1: combine_rows<1, false>(rows, weights, size, to); break;
        case 2: combine_rows<2, false>(rows, weights, size, to); break;
        case 3: combine_rows<3, false>(rows, weights, size, to); break;
        default: combine_rows<4, false>(rows, weights, size, to);
    }
    std::int64_t k = 4;
    for (; k + 1 < count; k += 2) combine_rows<2, true>(rows + k, weights + k, size, to);
    if (k < count) combine_rows<1, true>(rows + k, weights + k, size, to);
}

// The outputs phase, phase + up, phase + 2 up … of a row all meet the same taps, those of one phase.
template <class Acc>
struct Phase {
    std::int64_t start = 0;  // where the first of its outputs reads in the padded row
    std::vector<Acc> taps;
};

template <class Out, bool ADD, class Acc>
inline void put(Out& to, Acc value) {
    to = narrow<Out>(ADD ? Acc(widen(to) + value) : value);
}

// One row of one lane where every phase has TAPS taps: all phases in one loop, so that stores are contiguous.
template <int UP, int DOWN, int TAPS, bool ADD, class Out, class Acc>
void filter_row_fixed(const std::vector<Phase<Acc>>& phases, const Acc* __restrict row, std::int64_t size, Out* __restrict out) {
    const Acc* __restrict from[UP];
    Acc w[UP][TAPS];
    for (int p = 0; p < UP; ++p) {
        from[p] = row + phases[p].start;
        for (int k = 0; k < TAPS; ++k) w[p][k] = phases[p].taps[k];
    }
    const std::int64_t whole = size / UP;
#pragma GCC ivdep
    for (std::int64_t m = 0; m < whole; ++m)
        for (int p = 0; p < UP; ++p) {
            Acc sum = 0;
            for (int k = 0; k < TAPS; ++k) sum += w[p][k] * from[p][m * DOWN + k];
            put<Out, ADD>(out[m * UP + p], sum);
        }
    for (std::int64_t i = whole * UP; i < size; ++i) {
        const int p = int(i - whole * UP);
        Acc sum = 0;
        for (int k = 0; k < TAPS; ++k) sum += w[p][k] * from[p][whole * DOWN + k];
        put<Out, ADD>(out[i], sum);
    }
}

// One pixel of many lanes: out[lane] (+)= sum_k taps[k] * from[k * lanes + lane].
template <int TAPS, bool ADD, class Out, class Acc>
void filter_pixel(const Acc* taps, const Acc* __restrict from, std::int64_t lanes, Out* __restrict out) {
    Acc w[TAPS];
    for (int k = 0; k < TAPS; ++k) w[k] = taps[k];
#pragma GCC ivdep
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
        Acc sum = 0;
        for (int k = 0; k < TAPS; ++k) sum += w[k] * from[k * lanes + lane];
        put<Out, ADD>(out[lane], sum);
    }
}

// The same for any number of taps, a few lanes at a time so that their sums stay in registers.
template <bool ADD, class Out, class Acc>
void filter_pixel(const std::vector<Acc>& taps, const Acc* __restrict from, std::int64_t lanes, Out* __restrict out) {
    constexpr std::int64_t AT_ONCE = 16;
    std::int64_t lane = 0;
    for (; lane + AT_ONCE <= lanes; lane += AT_ONCE) {
        Acc sum[AT_ONCE] = {};
        for (std::size_t k = 0; k < taps.size(); ++k)
            for (std::int64_t i = 0; i < AT_ONCE; ++i) sum[i] += taps[k] * from[std::int64_t(k) * lanes + lane + i];
        for (std::int64_t i = 0; i < AT_ONCE; ++i) put<Out, ADD>(out[lane + i], sum[i]);
    }
    for (; lane < lanes; ++lane) {
        Acc sum = 0;
        for (std::size_t k = 0; k < taps.size(); ++k) sum += taps[k] * from[std::int64_t(k) * lanes + lane];
        put<Out, ADD>(out[lane], sum);
    }
}

template <bool ADD, class Out, class Acc>
void filter_row(
    const Axis& axis, const std::vector<Phase<Acc>>& phases, const Acc* row, std::int64_t lanes, std::int64_t size, Out* out) {
    const std::int64_t up = axis.up, down = axis.down, taps = axis.taps;
    if (lanes == 1 && up == 1 && down == 1 && taps == 4) return filter_row_fixed<1, 1, 4, ADD>(phases, row, size, out);
    if (lanes == 1 && up == 1 && down == 2 && taps == 4) return filter_row_fixed<1, 2, 4, ADD>(phases, row, size, out);
    if (lanes == 1 && up == 2 && down == 1 && taps == 4) return filter_row_fixed<2, 1, 2, ADD>(phases, row, size, out);
    if (lanes == 1 && up == 1 && down == 1 && taps == 12) return filter_row_fixed<1, 1, 12, ADD>(phases, row, size, out);
    if (lanes == 1 && up == 1 && down == 2 && taps == 12) return filter_row_fixed<1, 2, 12, ADD>(phases, row, size, out);
    if (lanes == 1 && up == 2 && down == 1 && taps == 12) return filter_row_fixed<2, 1, 6, ADD>(phases, row, size, out);
    for (std::int64_t i = 0; i < size; ++i) {
        const std::vector<Acc>& w = phases[i % up].taps;
        const Acc* from = row + (phases[i % up].start + i / up * down) * lanes;
        Out* to = out + i * lanes;
        if (w.size() == 2) filter_pixel<2, ADD>(w.data(), from, lanes, to);
        else if (w.size() == 4) filter_pixel<4, ADD>(w.data(), from, lanes, to);
        else if (w.size() == 6) filter_pixel<6, ADD>(w.data(), from, lanes, to);
        else if (w.size() == 12) filter_pixel<12, ADD>(w.data(), from, lanes, to);
        else filter_pixel<ADD>(w, from, lanes, to);
    }
}

// Everything that depends on sizes and filter alone, worked out once a call.
template <class T>
class Upfirdn2d {
  public:
    using Acc = Accumulator<T>;

    // f[y][x] in the order of correlation, gain included.
    Upfirdn2d(const Axis& x, const Axis& y, std::int64_t lanes, const std::vector<Acc>& f)
        : x_(x), y_(y), lanes_(lanes), terms_(factorise(f, y.taps, x.taps)) {
        const std::int64_t used_phases = std::min(x.up, x.out);
        first_ = x.first_input(0);
        for (std::int64_t p = 1; p < used_phases; ++p) first_ = std::min(first_, x.first_input(p));
        for (std::int64_t p = 0; p < used_phases; ++p)
            reach_ = std::max(reach_, x.first_input(p) - first_ + std::max<std::int64_t>(0, ceil_div(x.taps - x.first_tap(p), x.up)));
        for (const auto& term : terms_) {
            std::vector<Phase<Acc>> phases(x.up);
            for (std::int64_t p = 0; p < x.up; ++p) {
                phases[p].start = p < used_phases ? x.first_input(p) - first_ : 0;
                for (std::int64_t k = x.first_tap(p); k < x.taps; k += x.up) phases[p].taps.push_back(term.row[k]);
            }
            phases_.push_back(phases);
        }
        for (std::int64_t o = 0; o < y.out; ++o) {
            first_tap_.push_back(y.first_tap(o));
            first_row_.push_back(y.first_input(o));
        }
        // Pixels of a strip: a multiple of `up` that keeps the rows it reads in the first-level cache, of many lanes in the second.
        const std::int64_t fitting = (lanes > 1 ? WIDE_STRIP_BYTES : STRIP_BYTES) / std::int64_t(sizeof(Acc)) / lanes / y.taps * x.up / x.down;
        strip_ = std::clamp<std::int64_t>(fitting / x.up * x.up, 8 * x.up, std::max(ceil_div(x.out, x.up), std::int64_t(8)) * x.up);
        width_ = (strip_ / x.up - 1) * x.down + std::max<std::int64_t>(reach_, 1);
        batch_ = std::clamp<std::int64_t>(BATCH_NUMBERS / (width_ * lanes), 1, 16);
    }

    // Output rows begin .. end-1 of all images, counted through: row r belongs to image r / out height.
    void run(const T* in, T* out, std::int64_t begin, std::int64_t end) const {
        Scratch scratch{std::vector<Acc>(batch_ * width_ * lanes_), {}, std::vector<const T*>(y_.taps), std::vector<Acc>(y_.taps)};
        if (terms_.size() > 1) scratch.sum.resize(strip_ * lanes_);
        while (begin < end) {
            const std::int64_t image = begin / y_.out, row = begin % y_.out, count = std::min(end - begin, y_.out - row);
            const T* from = in + image * (y_.in * x_.in * lanes_);
            T* to = out + image * (y_.out * x_.out * lanes_);
            for (std::int64_t o = 0; o < x_.out; o += strip_) run_strip(from, to, o, row, row + count, scratch);
            begin += count;
        }
    }

  private:
    struct Scratch {
        std::vector<Acc> padded, sum;  // padded: rows with their margins, which stay zero within a strip
        std::vector<const T*> rows;
        std::vector<Acc> weights;
    };

    // Rows begin .. end-1 of one image, output columns from `left` on.
    void run_strip(const T* image, T* out, std::int64_t left, std::int64_t begin, std::int64_t end, Scratch& scratch) const {
        const std::int64_t first = first_ + left / x_.up * x_.down, size = std::min(strip_, x_.out - left);
        const std::int64_t margin_left = std::clamp<std::int64_t>(-first, 0, width_);
        const std::int64_t margin_right = std::clamp<std::int64_t>(first + width_ - x_.in, 0, width_ - margin_left);
        for (std::int64_t i = 0; i < batch_; ++i) {
            Acc* padded = &scratch.padded[i * width_ * lanes_];
            std::fill_n(padded, margin_left * lanes_, Acc(0));
            std::fill_n(padded + (width_ - margin_right) * lanes_, margin_right * lanes_, Acc(0));
        }
        // Several rows at a time: a row that was only just stored would be waited for.
        for (std::int64_t o = begin; o < end; o += batch_) {
            const std::int64_t rows = std::min(batch_, end - o);
            if (terms_.size() == 1) {
                for (std::int64_t i = 0; i < rows; ++i) gather(image, o + i, terms_[0].column, first, &scratch.padded[i * width_ * lanes_], scratch);
                for (std::int64_t i = 0; i < rows; ++i)
                    filter_row<false>(x_, phases_[0], &scratch.padded[i * width_ * lanes_], lanes_, size, out + ((o + i) * x_.out + left) * lanes_);
                continue;
            }
            for (std::int64_t i = 0; i < rows; ++i) {
                std::fill(scratch.sum.begin(), scratch.sum.end(), Acc(0));
                for (std::size_t t = 0; t < terms_.size(); ++t)
                    if (gather(image, o + i, terms_[t].column, first, scratch.padded.data(), scratch))
                        filter_row<true>(x_, phases_[t], scratch.padded.data(), lanes_, size, scratch.sum.data());
                T* to = out + ((o + i) * x_.out + left) * lanes_;
                for (std::int64_t k = 0; k < size * lanes_; ++k) to[k] = narrow<T>(scratch.sum[k]);
            }
        }
    }

    // The column's pass for output row o, into a padded row that starts at input column `first`. False where it meets no row.
    bool gather(const T* image, std::int64_t o, const std::vector<Acc>& column, std::int64_t first, Acc* padded, Scratch& scratch) const {
        const std::int64_t begin = std::max<std::int64_t>(first, 0), end = std::min(first + width_, x_.in);
        if (begin >= end) return false;
        std::int64_t count = 0, input = first_row_[o];
        for (std::int64_t k = first_tap_[o]; k < y_.taps; k += y_.up, ++input) {
            if (input < 0 || input >= y_.in || column[k] == 0) continue;
            scratch.rows[count] = image + (input * x_.in + begin) * lanes_;
            scratch.weights[count++] = column[k];
        }
        combine_rows(scratch.rows.data(), scratch.weights.data(), count, (end - begin) * lanes_, padded + (begin - first) * lanes_);
        return count > 0;
    }

    static constexpr std::int64_t STRIP_BYTES = 24 << 10, WIDE_STRIP_BYTES = 384 << 10, BATCH_NUMBERS = 2048;
    Axis x_, y_;
    std::int64_t lanes_, strip_ = 0, batch_ = 0;
    std::int64_t first_ = 0, reach_ = 0, width_ = 0;  // first_: the first input column that is met; width_: of a padded row
    std::vector<FilterTerm<Acc>> terms_;
    std::vector<std::vector<Phase<Acc>>> phases_;  // of each term
    std::vector<std::int64_t> first_tap_, first_row_;  // of each output row
};

// Contiguous images that are too narrow for vectors along their rows: LANES images at a time become the lanes of one.
template <class T>
class NarrowUpfirdn2d {
  public:
    using Acc = Accumulator<T>;
    static constexpr std::int64_t LANES = 16, WIDEST = 16, BATCH_NUMBERS = 1 << 14;

    NarrowUpfirdn2d(const Axis& x, const Axis& y, const std::vector<Acc>& f)
        : in_(x.in * y.in), out_(x.out * y.out), rows_(y.out), op_(x, y, LANES, f) {}

    std::int64_t groups(std::int64_t images) const { return ceil_div(images, LANES); }

    // Groups begin .. end-1 of LANES images; the last group may have fewer.
    void run(const T* in, T* out, std::int64_t images, std::int64_t begin, std::int64_t end) const {
        const std::int64_t batch = std::clamp<std::int64_t>(BATCH_NUMBERS / ((in_ + out_) * LANES), 1, end - begin);
        std::vector<Acc> from(batch * in_ * LANES, Acc(0)), to(batch * out_ * LANES);
        for (std::int64_t group = begin; group < end; group += batch) {
            const std::int64_t count = std::min(batch, end - group), first = group * LANES;
            const std::int64_t last = std::min(first + count * LANES, images);
            for (std::int64_t image = first; image < last; ++image) {
                Acc* lane = &from[(image - first) / LANES * in_ * LANES + (image - first) % LANES];
                for (std::int64_t i = 0; i < in_; ++i) lane[i * LANES] = widen(in[image * in_ + i]);
            }
            op_.run(from.data(), to.data(), 0, count * rows_);
            for (std::int64_t image = first; image < last; ++image) {
                const Acc* lane = &to[(image - first) / LANES * out_ * LANES + (image - first) % LANES];
                for (std::int64_t i = 0; i < out_; ++i) out[image * out_ + i] = narrow<T>(lane[i * LANES]);
            }
        }
    }

  private:
    std::int64_t in_, out_, rows_;
    Upfirdn2d<Acc> op_;
};

// The filter as [y.taps][x.taps] in the order of correlation, gain included.
template <class Acc>
std::vector<Acc> correlation_taps(const Acc* filter, const Upfirdn2dShape& s) {
    std::vector<Acc> taps(s.y.taps * s.x.taps);
    for (std::int64_t y = 0; y < s.y.taps; ++y)
        for (std::int64_t x = 0; x < s.x.taps; ++x) {
            const std::int64_t fy = s.correlate ? y : s.y.taps - 1 - y, fx = s.correlate ? x : s.x.taps - 1 - x;
            taps[y * s.x.taps + x] = Acc(s.gain) * (s.separable ? filter[fy] * filter[fx] : filter[fy * s.x.taps + fx]);
        }
    return taps;
}

template <class T>
void run(const void* in_, const void* filter, void* out_, const Upfirdn2dShape& s, bool channels_last, const Parallel& parallel) {
    const T* in = static_cast<const T*>(in_);
    T* out = static_cast<T*>(out_);
    const auto taps = correlation_taps(static_cast<const Accumulator<T>*>(filter), s);
    const std::int64_t lanes = channels_last ? s.channels : 1, images = channels_last ? s.batch : s.batch * s.channels;
    if (lanes == 1 && std::max(s.x.in, s.x.out) <= NarrowUpfirdn2d<T>::WIDEST && images >= NarrowUpfirdn2d<T>::LANES) {
        const NarrowUpfirdn2d<T> op(s.x, s.y, taps);
        const std::int64_t grain = std::max<std::int64_t>(1, CPU_GRAIN / (NarrowUpfirdn2d<T>::LANES * s.x.out * s.y.out));
        parallel(op.groups(images), grain, [&](std::int64_t begin, std::int64_t end) { op.run(in, out, images, begin, end); });
        return;
    }
    const Upfirdn2d<T> op(s.x, s.y, lanes, taps);
    const std::int64_t grain = std::max<std::int64_t>(1, CPU_GRAIN / (s.x.out * lanes));
    parallel(images * s.y.out, grain, [&](std::int64_t begin, std::int64_t end) { op.run(in, out, begin, end); });
}

}  // namespace

void upfirdn2d_cpu(
    Scalar type, const void* in, const void* filter, void* out, const Upfirdn2dShape& shape, bool channels_last, const Parallel& parallel) {
    switch (type) {
        case Scalar::float16: return run<Half>(in, filter, out, shape, channels_last, parallel);
        case Scalar::bfloat16: return run<BFloat16>(in, filter, out, shape, channels_last, parallel);
        case Scalar::float32: return run<float>(in, filter, out, shape, channels_last, parallel);
        case Scalar::float64: return run<double>(in, filter, out, shape, channels_last, parallel);
    }
}

}  // namespace ggdr
