#include "dropin/ops/matmul.h"

#include <string>

#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/gemm/kernel.h"
#include "ops/common.h"

namespace dropin {

using ops_detail::same_device;

namespace {

// [.., M, K] x [.., K, N] with broadcast batch dims, off the tape. Batches that form one evenly
// strided run go to the kernel in one call.
Tensor raw_matmul(const Tensor& a, const Tensor& b) {
  const Shape sa = a.sizes(), sb = b.sizes();
  Shape ba(sa.begin(), sa.size() - 2), bb(sb.begin(), sb.size() - 2);
  const Shape batch = broadcast_shapes(ba, bb, "matmul");
  const int64_t m = sa[sa.size() - 2], k = sa.back(), n = sb.back(), t = batch.numel();
  Shape sizes = batch;
  sizes.push_back(m);
  sizes.push_back(n);
  Tensor y = empty(sizes, a.options());
  auto flattened = [&](const Tensor& x, int64_t rows, int64_t columns) {
    Shape full = batch;
    full.push_back(rows);
    full.push_back(columns);
    Tensor e = detail::broadcast_to(x, full);
    // merge the batch dims if one stride serves them all (0 for a repeated operand)
    int64_t stride = 0, extent = 1;
    bool even = true;
    for (int i = batch.size() - 1; i >= 0; --i) {
      if (batch[i] == 1) continue;
      if (extent == 1)
        stride = e.strides()[i];
      else if (e.strides()[i] != stride * extent)
        even = false;
      extent *= batch[i];
    }
    if (!even) {
      e = e.clone();
      stride = rows * columns;
    }
    return detail::alias(e, {t, rows, columns},
                         {stride, e.strides()[batch.size()], e.strides()[batch.size() + 1]},
                         e.storage_offset());
  };
  run<kernels::matmul>(a.device(), flattened(a, m, k).in(), flattened(b, k, n).in(), 0.0,
                       detail::alias(y, {t, m, n}, {m * n, n, 1}, 0).out());
  return y;
}

// Both at least 2-d, one dtype.
Tensor matrix_product(const Tensor& a, const Tensor& b) {
  // [.., M, K] x [K, N]: one tall product
  if (b.dim() == 2 && a.dim() > 2 && a.is_contiguous()) {
    Shape s = a.sizes();
    s[s.size() - 1] = b.size(1);
    return matrix_product(a.reshape({-1, a.size(-1)}), b).reshape(s);
  }
  const bool keep_a = b.requires_grad(), keep_b = a.requires_grad();
  return record("matmul", raw_matmul(a.detach(), b.detach()), {a, b},
                {keep_a ? a : Tensor(), keep_b ? b : Tensor()},
                [sa = a.sizes(), sb = b.sizes()](const Saved& s, const Tensor& g) -> Tensors {
                  return {s.needs(0) ? sum_to(matmul(g, s[1].mT()), sa) : Tensor(),
                          s.needs(1) ? sum_to(matmul(s[0].mT(), g), sb) : Tensor()};
                });
}

}  // namespace

Tensor matmul(const Tensor& a_, const Tensor& b_) {
  same_device("matmul", a_, b_);
  if (a_.dim() == 0 || b_.dim() == 0)
    fail<ShapeError>({"matmul: scalars are not matrices; use mul"});
  const DType t = promote(a_.dtype(), b_.dtype());
  if (t == kBool) fail<DTypeError>({"matmul: not for bool"});
  Tensor a = a_.to(t), b = b_.to(t);
  const int64_t ka = a.size(-1), kb = b.dim() == 1 ? b.size(0) : b.size(-2);
  if (ka != kb)
    fail<ShapeError>(
        {"matmul: ", a.sizes(), " by ", b.sizes(), ": inner sizes ", ka, " and ", kb, " differ"});
  const bool va = a.dim() == 1, vb = b.dim() == 1;
  if (va) a = a.unsqueeze(0);
  if (vb) b = b.unsqueeze(1);
  Tensor y = matrix_product(a, b);
  if (vb) y = y.squeeze(-1);
  if (va) y = y.squeeze(vb ? -1 : -2);
  return y;
}
Tensor Tensor::matmul(const Tensor& other) const { return dropin::matmul(*this, other); }

Tensor linear(const Tensor& x_, const Tensor& w_, const Tensor& bias_) {
  if (w_.dim() != 2) fail<ShapeError>({"linear: weight is ", w_.sizes(), ", expected [out, in]"});
  if (x_.dim() == 0 || x_.size(-1) != w_.size(1))
    fail<ShapeError>({"linear: x is ", x_.sizes(), ", expected [*, ", w_.size(1),
                      "] because the weight is ", w_.sizes()});
  if (bias_.defined() && (bias_.dim() != 1 || bias_.size(0) != w_.size(0)))
    fail<ShapeError>({"linear: bias is ", bias_.sizes(), ", expected [", w_.size(0), "]"});
  if (!is_floating(x_.dtype()))
    fail<DTypeError>({"linear: x is ", x_.dtype(), ", expected a floating-point tensor"});
  same_device("linear", x_, w_);
  const DType t = promote(x_.dtype(), w_.dtype());
  const Tensor w = w_.to(t), bias = bias_.defined() ? bias_.to(t) : Tensor();
  const Tensor x = x_.to(t).contiguous().reshape(
      {x_.size(-1) ? -1 : x_.numel() / std::max<int64_t>(x_.size(-1), 1), x_.size(-1)});
  Shape sizes = x_.sizes();
  sizes[sizes.size() - 1] = w.size(0);
  if (x_.size(-1) == 0) return bias.defined() ? bias.expand(sizes) : zeros(sizes, w.options());
  Tensor y = empty({x.size(0), w.size(0)}, x.options());
  run<kernels::linear_forward>(x.device(), x.in(), w.detach().contiguous().in(),
                               bias.defined() ? bias.detach().contiguous().in() : abi::TensorIn{},
                               y.out());
  y = record("linear", y, {x, w, bias},
             {w.requires_grad() ? x : Tensor(), x.requires_grad() ? w : Tensor()},
             [](const Saved& s, const Tensor& g) -> Tensors {
               return {s.needs(0) ? matmul(g, s[1]) : Tensor(),
                       s.needs(1) ? matmul(g.mT(), s[0]) : Tensor(),
                       s.needs(2) ? sum(g, {0}) : Tensor()};
             });
  return y.reshape(sizes);
}

// --- einsum

namespace {

std::string expand_ellipsis(std::string_view text, int64_t dims, std::string_view equation,
                            int& widest) {
  std::string out;
  const std::size_t dots = text.find("...");
  std::size_t letters = 0;
  for (char c : text) letters += c != '.' && c != ' ';
  if (dots == std::string_view::npos) {
    for (char c : text)
      if (c != ' ') out += c;
  } else {
    const int64_t n = dims - static_cast<int64_t>(letters);
    if (n < 0)
      fail<ShapeError>({"einsum: \"", equation, "\": \"", text,
                        "\" names more dimensions than the operand's ", dims});
    widest = std::max(widest, static_cast<int>(n));
    for (char c : text.substr(0, dots))
      if (c != ' ') out += c;
    for (int64_t i = n; i-- > 0;) out += static_cast<char>('0' + i);
    for (char c : text.substr(dots + 3))
      if (c != ' ') out += c;
  }
  if (static_cast<int64_t>(out.size()) != dims)
    fail<ShapeError>({"einsum: \"", equation, "\": \"", text, "\" is for ", out.size(),
                      " dimensions, the operand has ", dims});
  for (char c : out)
    if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9'))
      fail<OptionError>({"einsum: \"", equation, "\": '", std::string(1, c), "' is not a letter"});
  return out;
}

// Repeated labels become a diagonal.
Tensor without_repeats(Tensor x, std::string& labels, std::string_view equation) {
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const std::size_t j = labels.find(labels[i], i + 1);
    if (j == std::string::npos) continue;
    if (x.sizes()[static_cast<int>(i)] != x.sizes()[static_cast<int>(j)])
      fail<ShapeError>(
          {"einsum: \"", equation, "\": '", std::string(1, labels[i]), "' stands for two sizes"});
    x = x.diagonal(0, static_cast<int64_t>(i), static_cast<int64_t>(j));
    const char c = labels[i];
    labels.erase(j, 1);
    labels.erase(i, 1);
    labels += c;
    i = static_cast<std::size_t>(-1);
  }
  return x;
}

Tensor arranged(const Tensor& x, const std::string& labels, const std::string& order) {
  Shape dims;
  for (char c : order) dims.push_back(static_cast<int64_t>(labels.find(c)));
  return x.permute(dims);
}

Tensor sum_out(const Tensor& x, std::string& labels, const std::string& needed) {
  Shape dims;
  std::string left;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (needed.find(labels[i]) == std::string::npos)
      dims.push_back(static_cast<int64_t>(i));
    else
      left += labels[i];
  }
  labels = left;
  return dims.empty() ? x : sum(x, dims);
}

// Contracts two operands to the labels in `keep`, as one batched matrix product.
Tensor contract(const Tensor& a, const std::string& la, const Tensor& b, const std::string& lb,
                const std::string& keep, std::string& out, std::string_view equation) {
  std::string batch, left, right, inner;
  for (char c : la) {
    const bool in_b = lb.find(c) != std::string::npos, kept = keep.find(c) != std::string::npos;
    (in_b ? (kept ? batch : inner) : left) += c;
  }
  for (char c : lb)
    if (la.find(c) == std::string::npos) right += c;
  auto size = [&](char c) {
    const std::size_t i = la.find(c), j = lb.find(c);
    const int64_t x = i == std::string::npos ? 1 : a.sizes()[static_cast<int>(i)],
                  y = j == std::string::npos ? 1 : b.sizes()[static_cast<int>(j)];
    if (x != y && x != 1 && y != 1)
      fail<ShapeError>({"einsum: \"", equation, "\": '", std::string(1, c), "' is ", x,
                        " in one operand and ", y, " in another"});
    return std::max(x == 0 || y == 0 ? 0 : x, x == 0 || y == 0 ? 0 : y);
  };
  auto sizes_of = [&](const std::string& s) {
    std::vector<int64_t> v;
    for (char c : s) v.push_back(size(c));
    return v;
  };
  auto shaped = [&](const Tensor& x, const std::string& labels, const std::string& order,
                    const std::string& first, const std::string& second) {
    Shape full(sizes_of(order));
    Shape flat(sizes_of(batch));
    int64_t f = 1, s = 1;
    for (char c : first) f *= size(c);
    for (char c : second) s *= size(c);
    flat.push_back(f);
    flat.push_back(s);
    return arranged(x, labels, order).expand(full).reshape(flat);
  };

  const Tensor x = shaped(a, la, batch + left + inner, left, inner),
               y = shaped(b, lb, batch + inner + right, inner, right);
  out = batch + left + right;
  return matmul(x, y).reshape(Shape(sizes_of(out)));
}

}  // namespace

Tensor einsum(std::string_view equation, const Tensors& operands) {
  if (operands.empty()) fail<ShapeError>({"einsum: no operands"});
  const std::size_t arrow = equation.find("->");
  std::vector<std::string> labels;
  int widest = 0;
  std::string_view rest = equation.substr(0, arrow);
  for (std::size_t k = 0;; ++k) {
    const std::size_t comma = rest.find(',');
    if (k >= operands.size())
      fail<ShapeError>(
          {"einsum: \"", equation, "\" names more operands than the ", operands.size(), " given"});
    labels.push_back(expand_ellipsis(rest.substr(0, comma), operands[k].dim(), equation, widest));
    if (comma == std::string_view::npos) break;
    rest = rest.substr(comma + 1);
  }
  if (labels.size() != operands.size())
    fail<ShapeError>({"einsum: \"", equation, "\" names ", labels.size(), " operands, ",
                      operands.size(), " were given"});
  std::string result;
  if (arrow == std::string_view::npos) {
    // torch's implicit form: the ellipsis, then letters that occur once, in order
    for (int i = widest; i-- > 0;) result += static_cast<char>('0' + i);
    for (int c = 'A'; c <= 'z'; ++c) {
      int count = 0;
      for (const auto& l : labels)
        for (char x : l) count += x == c;
      if (count == 1) result += static_cast<char>(c);
    }
  } else {
    std::string_view text = equation.substr(arrow + 2);
    int64_t dims = text.find("...") == std::string_view::npos ? 0 : widest;
    for (std::size_t i = 0; i < text.size(); ++i) dims += text[i] != '.' && text[i] != ' ';
    int ignored = 0;
    result = expand_ellipsis(text, dims, equation, ignored);
  }
  for (std::size_t i = 0; i < result.size(); ++i) {
    bool known = false;
    for (const auto& l : labels) known = known || l.find(result[i]) != std::string::npos;
    if (!known)
      fail<OptionError>({"einsum: \"", equation, "\": '", std::string(1, result[i]),
                         "' of the result is in no operand"});
    if (result.find(result[i], i + 1) != std::string::npos)
      fail<OptionError>({"einsum: \"", equation, "\": '", std::string(1, result[i]),
                         "' occurs twice in the result"});
  }
  Tensor acc = without_repeats(operands[0], labels[0], equation);
  std::string have = labels[0];
  for (std::size_t k = 1; k < operands.size(); ++k) {
    Tensor next = without_repeats(operands[k], labels[k], equation);
    std::string keep = result;
    for (std::size_t j = k + 1; j < operands.size(); ++j) keep += labels[j];
    acc = sum_out(acc, have, keep + labels[k]);
    next = sum_out(next, labels[k], keep + have);
    std::string out;
    acc = contract(acc, have, next, labels[k], keep, out, equation);
    have = out;
  }
  acc = sum_out(acc, have, result);
  return arranged(acc, have, result);
}

}  // namespace dropin
