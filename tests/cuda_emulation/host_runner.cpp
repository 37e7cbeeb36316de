// Runs the ops' kernels on the CPU over cases that a test wrote to a file, and writes what they give to another.
//
// A case: its kind, then integers, doubles and blobs, each list with its length before it. See test_host_kernels.py.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cpu.h"
#include "divider.h"
#include "host_cuda.h"
#include "launch.h"
#include "scalar.h"

using namespace ggdr;

namespace {

enum Kind : std::int64_t { UPFIRDN2D_GPU, BIAS_ACT_GPU, UPFIRDN2D_CPU, BIAS_ACT_CPU, ROUND, WIDEN, FAULT, DIVIDE };

[[noreturn]] void fail(const char* what) {
    std::fprintf(stderr, "host_runner: %s\n", what);
    std::exit(1);
}

template <class T>
T get(std::FILE* file) {
    T value;
    if (std::fread(&value, sizeof value, 1, file) != 1) fail("the case file is cut off");
    return value;
}

template <class T>
std::vector<T> get_list(std::FILE* file) {
    std::vector<T> list(get<std::int64_t>(file));
    for (T& item : list) item = get<T>(file);
    return list;
}

// Memory of exactly the size of what is in it, so that AddressSanitizer sees any access beyond.
class Blob {
  public:
    explicit Blob(std::size_t size, unsigned char fill = 0xFF) : size_(size), data_(static_cast<unsigned char*>(std::malloc(size))) {
        std::memset(data_, fill, size);
    }
    Blob(Blob&& other) noexcept : size_(other.size_), data_(other.data_) { other.data_ = nullptr; }
    Blob(const Blob&) = delete;
    ~Blob() { std::free(data_); }
    unsigned char* data() { return size_ ? data_ : nullptr; }
    std::size_t size() const { return size_; }

  private:
    std::size_t size_;
    unsigned char* data_;
};

struct Case {
    std::int64_t kind;
    std::vector<std::int64_t> ints;
    std::vector<double> doubles;
    std::vector<Blob> blobs;

    explicit Case(std::FILE* file) : kind(get<std::int64_t>(file)), ints(get_list<std::int64_t>(file)), doubles(get_list<double>(file)) {
        for (std::int64_t i = get<std::int64_t>(file); i > 0; --i) {
            Blob blob(get<std::int64_t>(file));
            if (blob.size() && std::fread(blob.data(), 1, blob.size(), file) != blob.size()) fail("the case file is cut off");
            blobs.push_back(std::move(blob));
        }
    }
};

std::size_t size_of(std::int64_t type) { return type == 3 ? 8 : type == 2 ? 4 : 2; }

void put(std::FILE* file, const void* data, std::size_t size) {
    const std::int64_t meta[3] = {host_cuda::settings.launches, host_cuda::settings.grid, std::int64_t(size)};
    if (std::fwrite(meta, sizeof meta, 1, file) != 1 || std::fwrite(data, 1, size, file) != size) fail("the results cannot be written");
}

// Address space without memory behind it: only pages that are touched cost anything.
class Sparse {
  public:
    explicit Sparse(std::size_t size) : size_(size) {
        data_ = static_cast<unsigned char*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (data_ == MAP_FAILED) fail("no address space");
    }
    ~Sparse() { munmap(data_, size_); }
    unsigned char* data() { return data_; }

  private:
    std::size_t size_;
    unsigned char* data_;
};

// A tensor whose few values that matter are given as (offset, value); everything else is zero.
void poke(Sparse& memory, Blob& offsets, Blob& values, std::size_t item) {
    for (std::size_t i = 0; i < offsets.size() / 8; ++i) {
        std::int64_t offset;
        std::memcpy(&offset, offsets.data() + i * 8, 8);
        std::memcpy(memory.data() + offset * item, values.data() + i * item, item);
    }
}

void put_peeks(std::FILE* out, Sparse& memory, Blob& offsets, std::size_t item) {
    std::vector<unsigned char> values;
    for (std::size_t i = 0; i < offsets.size() / 8; ++i) {
        std::int64_t offset;
        std::memcpy(&offset, offsets.data() + i * 8, 8);
        values.insert(values.end(), memory.data() + offset * item, memory.data() + (offset + 1) * item);
    }
    put(out, values.data(), values.size());
}

// Ranges of uneven sizes, as threads would get them.
void in_pieces(std::int64_t count, std::int64_t, const Range& range) {
    for (std::int64_t begin = 0, size = 1; begin < count; begin += size, size = size % 7 + 2) range(begin, std::min(begin + size, count));
}

void set_blocks(Blob& blocks) {
    host_cuda::settings.blocks.resize(blocks.size() / 4);
    if (blocks.size()) std::memcpy(host_cuda::settings.blocks.data(), blocks.data(), blocks.size());
}

Upfirdn2dShape shape_of(const Case& c) {
    const auto& i = c.ints;
    Upfirdn2dShape s{i[1], i[2], {i[3], i[4], i[5], i[6], i[7], i[8]}, {i[9], i[10], i[11], i[12], i[13], i[14]}, {}, {}, i[23] != 0, i[24] != 0, c.doubles[0]};
    for (int k = 0; k < 4; ++k) s.in_stride[k] = i[15 + k], s.out_stride[k] = i[19 + k];
    return s;
}

// ints: type, batch, channels, x axis (6), y axis (6), strides of input and output (4, 4), separable, correlate, order of
// threads, offset of the input in its blob, output numbers, numbers of sparse tensors (0: not sparse). doubles: gain.
// blobs: input, filter, blocks; for sparse ones also offsets of the input's values, offsets of wanted outputs.
void run_upfirdn2d(Case& c, std::FILE* out) {
    const Upfirdn2dShape shape = shape_of(c);
    const Scalar type = Scalar(c.ints[0]);
    const std::size_t item = size_of(c.ints[0]);
    if (c.kind == UPFIRDN2D_CPU) {
        Blob result(c.ints[27] * item);
        upfirdn2d_cpu(type, c.blobs[0].data(), c.blobs[1].data(), result.data(), shape, shape.out_stride[1] == 1 && shape.channels > 1, in_pieces);
        return put(out, result.data(), result.size());
    }
    set_blocks(c.blobs[2]);
    if (c.ints[28] > 0) {
        Sparse in(c.ints[28] * item), result(c.ints[27] * item);
        poke(in, c.blobs[3], c.blobs[0], item);
        if (launch_upfirdn2d(type, in.data(), c.blobs[1].data(), result.data(), shape, nullptr) != 0) fail("launch_upfirdn2d");
        return put_peeks(out, result, c.blobs[4], item);
    }
    Blob result(c.ints[27] * item);
    if (launch_upfirdn2d(type, c.blobs[0].data() + c.ints[26] * item, c.blobs[1].data(), result.data(), shape, nullptr) != 0) fail("launch_upfirdn2d");
    put(out, result.data(), result.size());
}

// ints: type, size, step, channels, activation, order of the derivative, order of threads, offset of the tensors in their
// blobs (negative: of `incoming` alone), sparse (0 or 1). doubles: alpha, gain, clamp. blobs: incoming, kept, bias, blocks; for sparse ones the first two
// hold values at the offsets that follow.
void run_bias_act(Case& c, std::FILE* out) {
    const auto& i = c.ints;
    const Scalar type = Scalar(i[0]);
    const std::size_t item = size_of(i[0]), skip = std::max<std::int64_t>(i[7], 0) * item, skip_incoming = std::abs(i[7]) * item;
    const BiasActCall call{i[1], i[2], i[3], Act(i[4]), int(i[5]), c.doubles[0], c.doubles[1], c.doubles[2]};
    unsigned char* incoming = i[5] > 0 ? c.blobs[0].data() + skip_incoming : nullptr;
    if (c.kind == BIAS_ACT_CPU) {
        Blob result(i[1] * item);
        bias_act_cpu(type, incoming, c.blobs[1].data(), c.blobs[2].data(), result.data(), call, in_pieces);
        return put(out, result.data(), result.size());
    }
    set_blocks(c.blobs[3]);
    if (i[8] != 0) {
        Sparse kept(i[1] * item), result(i[1] * item);
        poke(kept, c.blobs[4], c.blobs[1], item);
        if (launch_bias_act(type, nullptr, kept.data(), c.blobs[2].data(), result.data(), call, nullptr) != 0) fail("launch_bias_act");
        return put_peeks(out, result, c.blobs[4], item);
    }
    Blob result(i[1] * item + skip);
    if (launch_bias_act(type, incoming, c.blobs[1].data() + skip, c.blobs[2].data(), result.data() + skip, call, nullptr) != 0) fail("launch_bias_act");
    put(out, result.data() + skip, i[1] * item);
}

// ints: 0 for float16, 1 for bfloat16. blobs: floats to round, or numbers to widen.
void run_conversion(Case& c, std::FILE* out) {
    const std::size_t from = c.kind == ROUND ? 4 : 2, count = c.blobs[0].size() / from;
    Blob result(count * (6 - from));
    for (std::size_t k = 0; k < count; ++k) {
        if (c.kind == ROUND) {
            float x;
            std::memcpy(&x, c.blobs[0].data() + k * 4, 4);
            const std::uint16_t bits = c.ints[0] == 0 ? narrow<Half>(x).bits : narrow<BFloat16>(x).bits;
            std::memcpy(result.data() + k * 2, &bits, 2);
        } else {
            std::uint16_t bits;
            std::memcpy(&bits, c.blobs[0].data() + k * 2, 2);
            const float x = c.ints[0] == 0 ? widen(Half{bits}) : widen(BFloat16{bits});
            std::memcpy(result.data() + k * 4, &x, 4);
        }
    }
    put(out, result.data(), result.size());
}

// ints: the divisor. blobs: numbers of 32 bits.
void run_divide(Case& c, std::FILE* out) {
    const Divider divider(c.ints[0]);
    Blob result(c.blobs[0].size());
    for (std::size_t i = 0; i < result.size(); i += 4) {
        std::uint32_t n;
        std::memcpy(&n, c.blobs[0].data() + i, 4);
        n = divider.quotient(n);
        std::memcpy(result.data() + i, &n, 4);
    }
    put(out, result.data(), result.size());
}

// Faults that the runner must notice. ints: 0 a write beyond shared memory, 1 a barrier that half of the threads reach,
// 2 a barrier that is missing (its results are what matters), 3 the same with the barrier, 4 a write beyond a tensor.
void faulty_kernel(std::int64_t fault, float* out) {
    GGDR_SHARED(float, values, 32);
    const unsigned i = threadIdx.x;
    if (fault == 0) values[i + (i == 31)] = 1;
    if (fault == 1 && i < 16) __syncthreads();
    if (fault >= 2) values[i] = float(i);
    if (fault >= 3) __syncthreads();
    if (fault >= 2) out[i + (fault == 4 && i == 31)] = values[(i + 1) % 32];
}

void run_fault(Case& c, std::FILE* out) {
    Blob result(32 * sizeof(float));
    const std::int64_t fault = c.ints[0];
    float* to = reinterpret_cast<float*>(result.data());
    GGDR_LAUNCH(faulty_kernel, 1, 32, static_cast<cudaStream_t>(nullptr), fault, to);
    put(out, result.data(), result.size());
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) fail("usage: host_runner CASES RESULTS");
    std::FILE* in = std::fopen(argv[1], "rb");
    std::FILE* out = std::fopen(argv[2], "wb");
    if (in == nullptr || out == nullptr) fail("a file cannot be opened");
    for (std::int64_t left = get<std::int64_t>(in); left > 0; --left) {
        Case c(in);
        host_cuda::settings = {};
        if (c.kind == UPFIRDN2D_GPU) host_cuda::settings.order = host_cuda::Order(c.ints[25]);
        if (c.kind == BIAS_ACT_GPU) host_cuda::settings.order = host_cuda::Order(c.ints[6]);
        if (c.kind == FAULT) host_cuda::settings.order = host_cuda::Order(c.ints[1]);
        if (c.kind == UPFIRDN2D_GPU || c.kind == UPFIRDN2D_CPU) run_upfirdn2d(c, out);
        else if (c.kind == BIAS_ACT_GPU || c.kind == BIAS_ACT_CPU) run_bias_act(c, out);
        else if (c.kind == FAULT) run_fault(c, out);
        else if (c.kind == DIVIDE) run_divide(c, out);
        else run_conversion(c, out);
    }
    std::fclose(in);
    if (std::fclose(out) != 0) fail("the results cannot be written");
}
