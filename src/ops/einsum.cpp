// Einstein's summation: two operands at a time, each pair one product of matrices.
#include <algorithm>
#include <string>

#include "dropin/ops/matmul.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "ops/common.h"

namespace dropin {

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
