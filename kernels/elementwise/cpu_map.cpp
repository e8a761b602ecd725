// The strided engine. Three ways through: everything dense (one call per thread), long rows that a
// row function takes as they are, and the rest through blocks on the stack (gather, row function,
// scatter).
#include <algorithm>
#include <cstring>

#include "dropin/core/parallel.h"
#include "kernels/strided.h"

namespace dropin::kernels {
namespace {

constexpr int64_t kBlock = 512;   // elements of a stack block: 4 KiB of f64 per operand
constexpr int64_t kLongRow = 64;  // below it, the call per row costs more than gathering

/// Calls f(dimension sizes consumed...) for runs of the innermost dimension that cover [begin,
/// begin + n).
template <class F>
void for_runs(const Loop& l, int64_t begin, int64_t n, F&& f) {
  const int last = l.ndim - 1;
  int64_t index[abi::kMaxDims];
  int64_t rest = begin;
  for (int i = last; i >= 0; --i) {
    index[i] = rest % l.size[i];
    rest /= l.size[i];
  }
  int64_t offset[Loop::kMaxOperands] = {};
  for (int k = 0; k < l.operands; ++k)
    for (int i = 0; i <= last; ++i) offset[k] += index[i] * l.stride[k][i];
  for (int64_t done = 0; done < n;) {
    const int64_t run = std::min(l.size[last] - index[last], n - done);
    f(offset, done, run);
    done += run;
    if (done == n) return;
    for (int k = 0; k < l.operands; ++k) offset[k] -= index[last] * l.stride[k][last];
    index[last] = 0;
    for (int i = last - 1; i >= 0; --i) {
      for (int k = 0; k < l.operands; ++k) offset[k] += l.stride[k][i];
      if (++index[i] < l.size[i]) break;
      for (int k = 0; k < l.operands; ++k) offset[k] -= l.size[i] * l.stride[k][i];
      index[i] = 0;
    }
  }
}

template <class F>
void with_item(int64_t item, F&& f) {
  switch (item) {
    case 1:
      return f(std::uint8_t{});
    case 2:
      return f(std::uint16_t{});
    case 4:
      return f(std::uint32_t{});
    default:
      return f(std::uint64_t{});
  }
}

/// q[i] = p[(phase + i) % period]
template <class T>
void repeat(const T* p, int64_t period, int64_t phase, T* q, int64_t n) {
  const int64_t first = std::min(n, period), wrap = std::min(first, period - phase);
  std::copy_n(p + phase, wrap, q);
  std::copy_n(p, first - wrap, q + wrap);
  for (int64_t done = first; done < n; done *= 2)
    std::memcpy(q + done, q, static_cast<std::size_t>(std::min(done, n - done)) * sizeof(T));
}

/// The loop seen by one operand alone: for_runs then follows only that one.
Loop only(const Loop& l, int operand) {
  Loop r;
  r.ndim = l.ndim;
  r.operands = 1;
  r.total = l.total;
  std::copy_n(l.size, l.ndim, r.size);
  std::copy_n(l.stride[operand], l.ndim, r.stride[0]);
  return r;
}

struct Operand {
  char* data;
  int64_t item;
  DType half;  // BFloat16 or Float16, else Float32
  bool dense, constant;
};

void map_blocks(Row row, const RowArgs& args, const Loop& loop, const Operand* operand,
                int64_t begin, int64_t end) {
  alignas(64) char raw[Loop::kMaxOperands][kBlock * 8];
  alignas(64) float wide[Loop::kMaxOperands][kBlock];
  const void* in[Loop::kMaxOperands];
  int64_t step[Loop::kMaxOperands];
  for (int64_t i = begin; i < end; i += kBlock) {
    const int64_t n = std::min(kBlock, end - i);
    for (int k = 1; k < loop.operands; ++k) {
      const Operand& o = operand[k];
      step[k - 1] = !o.constant;
      const char* from = o.data;
      if (o.dense)
        from += i * o.item;
      else if (!o.constant) {
        gather(loop, k, o.item, o.data, i, n, raw[k]);
        from = raw[k];
      }
      if (is_half(o.half)) {
        widen(o.half, from, wide[k], o.constant ? 1 : n);
        in[k - 1] = wide[k];
      } else {
        in[k - 1] = from;
      }
    }
    const Operand& y = operand[0];
    char* to = y.dense ? y.data + i * y.item : raw[0];
    if (is_half(y.half)) {
      row(args, wide[0], in, step, n);
      narrow(y.half, wide[0], to, n);
    } else {
      row(args, to, in, step, n);
    }
    if (!y.dense) scatter(loop, 0, y.item, to, i, n, y.data);
  }
}

/// Does the operand run across the loop's order (a transposed matrix)? Gathering would then touch a
/// cache line per element.
bool crosses(const Loop& l, int operand) {
  const int64_t* s = l.stride[operand];
  return s[l.ndim - 1] > 1 && l.size[l.ndim - 1] >= 4 &&
         std::find(s, s + l.ndim - 1, 1) != s + l.ndim - 1;
}

/// x in memory of its own, laid out as y, which is dense.
struct Aligned {
  std::unique_ptr<char[]> memory;
  abi::TensorOut tensor;
  Aligned(const abi::TensorIn& x, const abi::TensorIn& y)
      : memory(new char[static_cast<std::size_t>(y.numel() * item_size(x.dtype))]) {
    static_cast<abi::TensorIn&>(tensor) = y;
    tensor.dtype = x.dtype;
    tensor.data = memory.get();
    copy_values(x, tensor);
  }
};

}  // namespace

void Loop::make(std::initializer_list<const abi::TensorIn*> tensors) {
  operands = static_cast<int>(tensors.size());
  const abi::TensorIn* t[kMaxOperands];
  std::copy(tensors.begin(), tensors.end(), t);
  int order[abi::kMaxDims];
  ndim = 0;
  total = 1;
  for (int i = 0; i < t[0]->ndim; ++i) {
    total *= t[0]->sizes[i];
    if (t[0]->sizes[i] == 1) continue;
    int at = ndim++;  // insertion sort by the leader's stride; equal strides keep their order
    for (; at > 0 && t[0]->strides[order[at - 1]] < t[0]->strides[i]; --at)
      order[at] = order[at - 1];
    order[at] = i;
  }
  int kept = 0;
  for (int i = 0; i < ndim; ++i) {
    const int from = order[i];
    const int64_t n = t[0]->sizes[from];
    bool merge = kept > 0;
    for (int k = 0; merge && k < operands; ++k)
      merge = stride[k][kept - 1] == t[k]->strides[from] * n;
    if (merge)
      size[kept - 1] *= n;
    else
      size[kept++] = n;
    for (int k = 0; k < operands; ++k) stride[k][kept - 1] = t[k]->strides[from];
  }
  ndim = kept;
  if (ndim == 0) {
    ndim = 1;
    size[0] = 1;
    for (int k = 0; k < operands; ++k) stride[k][0] = 1;
  }
}

bool Loop::dense(int k) const {
  int64_t expect = 1;
  for (int i = ndim - 1; i >= 0; --i) {
    if (stride[k][i] != expect) return false;
    expect *= size[i];
  }
  return true;
}

bool Loop::constant(int k) const {
  for (int i = 0; i < ndim; ++i)
    if (stride[k][i]) return false;
  return true;
}

int64_t Loop::offset(int k, int64_t flat) const {
  int64_t at = 0;
  for (int i = ndim - 1; i >= 0; --i) {
    at += flat % size[i] * stride[k][i];
    flat /= size[i];
  }
  return at;
}

void gather(const Loop& loop, int operand, int64_t item, const void* from, int64_t begin, int64_t n,
            void* block) {
  const Loop l = only(loop, operand);
  const int64_t s = l.stride[0][l.ndim - 1], period = l.size[l.ndim - 1];
  const bool repeats =
      s == 1 && period < n &&
      std::all_of(l.stride[0], l.stride[0] + l.ndim - 1, [](int64_t v) { return v == 0; });
  with_item(item, [&](auto zero) {
    using T = decltype(zero);
    if (repeats)
      return repeat(static_cast<const T*>(from), period, begin % period, static_cast<T*>(block), n);
    for_runs(l, begin, n, [&](const int64_t* offset, int64_t done, int64_t run) {
      const T* p = static_cast<const T*>(from) + offset[0];
      T* q = static_cast<T*>(block) + done;
      if (s == 1)
        std::memcpy(q, p, run * sizeof(T));
      else if (s == 0)
        std::fill_n(q, run, *p);
      else
        for (int64_t i = 0; i < run; ++i) q[i] = p[i * s];
    });
  });
}

void scatter(const Loop& loop, int operand, int64_t item, const void* block, int64_t begin,
             int64_t n, void* to) {
  const Loop l = only(loop, operand);
  const int64_t s = l.stride[0][l.ndim - 1];
  with_item(item, [&](auto zero) {
    using T = decltype(zero);
    for_runs(l, begin, n, [&](const int64_t* offset, int64_t done, int64_t run) {
      T* p = static_cast<T*>(to) + offset[0];
      const T* q = static_cast<const T*>(block) + done;
      if (s == 1)
        std::memcpy(p, q, run * sizeof(T));
      else
        for (int64_t i = 0; i < run; ++i) p[i * s] = q[i];
    });
  });
}

namespace {

/// Dense operands of one size: one row, in parts.
void map_dense(Row row, const RowArgs& args, const Operand* operand, int operands, int64_t total) {
  auto dense = [&](int64_t begin, int64_t end) {
    const void* p[Loop::kMaxOperands];
    const int64_t step[Loop::kMaxOperands] = {1, 1, 1, 1};
    for (int j = 1; j < operands; ++j) p[j - 1] = operand[j].data + begin * operand[j].item;
    row(args, operand[0].data + begin * operand[0].item, p, step, end - begin);
  };
  if (total <= kGrain)
    dense(0, total);
  else
    parallel_for(total, kGrain, dense);
}

Loop loop_of(const abi::TensorOut& y, std::initializer_list<const abi::TensorIn*> in) {
  Loop loop;
  switch (in.size() + 1) {
    case 1:
      loop.make({&y});
      break;
    case 2:
      loop.make({&y, in.begin()[0]});
      break;
    case 3:
      loop.make({&y, in.begin()[0], in.begin()[1]});
      break;
    default:
      loop.make({&y, in.begin()[0], in.begin()[1], in.begin()[2]});
      break;
  }
  return loop;
}

}  // namespace

void map(Row row, const RowArgs& args, const abi::TensorOut& y,
         std::initializer_list<const abi::TensorIn*> in) {
  const int64_t total = y.numel();
  if (total == 0) return;
  // Nearly every call: dense operands of one size, in float.
  bool plain = y.contiguous() && !is_half(y.dtype);
  for (const abi::TensorIn* t : in) plain = plain && t->contiguous() && !is_half(t->dtype);
  const int operands = static_cast<int>(in.size()) + 1;
  Operand operand[Loop::kMaxOperands];
  int k = 0;
  operand[k++] = {y.as<char>(), item_size(y.dtype), y.dtype, true, false};
  for (const abi::TensorIn* t : in)
    operand[k++] = {const_cast<char*>(t->as<char>()), item_size(t->dtype), t->dtype, true, false};
  if (plain) return map_dense(row, args, operand, operands, total);
  const Loop loop = loop_of(y, in);
  const int last = loop.ndim - 1;
  if (total >= kGrain && loop.dense(0)) {
    for (int j = 1; j < operands; ++j) {
      if (!crosses(loop, j)) continue;
      const abi::TensorIn* const* t = in.begin();
      const Aligned packed(*t[j - 1], y);  // by tiles, once, beats block by block
      auto pick = [&](int i) { return i == j ? &packed.tensor : t[i - 1]; };
      if (operands == 2) return map(row, args, y, {pick(1)});
      if (operands == 3) return map(row, args, y, {pick(1), pick(2)});
      return map(row, args, y, {pick(1), pick(2), pick(3)});
    }
  }
  bool rows = loop.inner() >= kLongRow || loop.ndim == 1;
  for (int j = 0; j < operands; ++j) {
    operand[j].dense = loop.dense(j);
    operand[j].constant = j > 0 && loop.constant(j);
    const int64_t s = loop.stride[j][last];
    rows = rows && !is_half(operand[j].half) && (s == 1 || (s == 0 && j > 0));
  }
  parallel_for(total, kGrain, [&](int64_t begin, int64_t end) {
    if (!rows) return map_blocks(row, args, loop, operand, begin, end);
    int64_t step[Loop::kMaxOperands];
    for (int j = 1; j < operands; ++j) step[j - 1] = loop.stride[j][last];
    for_runs(loop, begin, end - begin, [&](const int64_t* offset, int64_t, int64_t run) {
      const void* p[Loop::kMaxOperands];
      for (int j = 1; j < operands; ++j) p[j - 1] = operand[j].data + offset[j] * operand[j].item;
      row(args, operand[0].data + offset[0] * operand[0].item, p, step, run);
    });
  });
}

}  // namespace dropin::kernels
