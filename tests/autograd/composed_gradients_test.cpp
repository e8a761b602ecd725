// Cases of gradients_test.cpp: indexing, products, norms, convolutions, losses, attention, factors.
#include "autograd/op_cases.h"

namespace dropin {
namespace {

using testing::random;

void add_joining(OpCases& c) {
  const Tensor x = random({3, 4});
  const Tensor y = random({3, 4}, kFloat64, 8);
  c.op("concat",
       [](const Tensors& v) {
         return concat({v[0], v[1], v[0]}, 1);
       },
       {x, random({3, 2})});
  c.op("stack", [](const Tensors& v) { return stack({v[0], v[1]}, 1); }, {x, y});
  c.op("split", [](const Tensors& v) { return split(v[0], 3, 1)[0]; }, {x});
  c.op("pad", [](const Tensors& v) { return pad(v[0], {1, -1, 0, 2}, 3); }, {x});
  c.op("flip", [](const Tensors& v) { return flip(v[0], {0, 1}); }, {x});
  c.op("roll", [](const Tensors& v) { return roll(v[0], 3, 1); }, {x});
  c.op("repeat", [](const Tensors& v) { return repeat(v[0], {2, 1, 3}); }, {x});
  c.op("repeat_interleave", [](const Tensors& v) { return repeat_interleave(v[0], 2, 1); }, {x});
  c.op("tril", [](const Tensors& v) { return tril(v[0], 1); }, {x});
  c.op("triu", [](const Tensors& v) { return triu(v[0]); }, {x});
}

void add_indexing(OpCases& c) {
  const Tensor x = random({3, 4});
  c.op("gather",
       [](const Tensors& v) {
         return gather(v[0], 1, ids({0, 0, 3, 1, 2, 2}, {3, 2}));
       },
       {x});
  c.op("scatter",
       [](const Tensors& v) {
         return scatter(v[0], 1, ids({0, 3, 1}, {3, 1}), v[1]);
       },
       {x, random({3, 1})});
  c.op("scatter_add",
       [](const Tensors& v) {
         return scatter_add(v[0], 1, ids({0, 0, 3, 1, 2, 2}, {3, 2}), v[1]);
       },
       {x, random({3, 2})});
  c.op("index_select",
       [](const Tensors& v) {
         return index_select(v[0], 0, ids({2, 0, 2}, {3}));
       },
       {x});
  c.op("index_add",
       [](const Tensors& v) {
         return index_add(v[0], 0, ids({2, 0}, {2}), v[1]);
       },
       {x, random({2, 4})});
  c.op("masked_select", [](const Tensors& v) { return masked_select(v[0], v[0].detach() > 0.0); },
       {x});
  c.op("embedding",
       [](const Tensors& v) {
         return embedding(v[0], ids({1, 1, 2, 0}, {2, 2}));
       },
       {random({4, 3})});
}

void add_products(OpCases& c) {
  c.op("matmul", [](const Tensors& v) { return matmul(v[0], v[1]); },
       {random({3, 4}), random({4, 5})});
  c.op("matmul_broadcast", [](const Tensors& v) { return matmul(v[0], v[1]); },
       {random({2, 1, 3, 4}), random({3, 4, 2})});
  c.op("matmul_tall", [](const Tensors& v) { return matmul(v[0], v[1]); },
       {random({2, 3, 4}), random({4, 2})});
  c.op("matmul_vector", [](const Tensors& v) { return matmul(v[0], v[1]); },
       {random({2, 3, 4}), random({4})});
  c.op("dot", [](const Tensors& v) { return matmul(v[0], v[1]); },
       {random({4}), random({4}, kFloat64, 2)});
  c.op("linear", [](const Tensors& v) { return linear(v[0], v[1], v[2]); },
       {random({2, 3, 4}), random({5, 4}), random({5})});
  c.op("einsum_attention",
       [](const Tensors& v) {
         return einsum("bqhd,bkhd->bhqk", {v[0], v[1]});
       },
       {random({2, 3, 2, 4}), random({2, 2, 2, 4})});
  c.op("einsum_three", [](const Tensors& v) { return einsum("ij,jk,k->i", v); },
       {random({2, 3}), random({3, 4}), random({4})});
  c.op("einsum_trace", [](const Tensors& v) { return einsum("ii", v); }, {random({3, 3})});
  c.op("einsum_ellipsis", [](const Tensors& v) { return einsum("...ij,jk->...ik", v); },
       {random({2, 2, 3}), random({3, 2})});
}

void add_norms(OpCases& c) {
  const Tensor x = random({3, 4});
  const Tensor row = random({4}, kFloat64, 9);
  c.op("layer_norm", [](const Tensors& v) { return layer_norm(v[0], {4}, v[1], v[2]); },
       {x, row, random({4})});
  c.op("layer_norm_plain", [](const Tensors& v) { return layer_norm(v[0], {3, 4}); }, {x});
  c.op("rms_norm", [](const Tensors& v) { return rms_norm(v[0], v[1]); }, {x, row});
  c.op("group_norm", [](const Tensors& v) { return group_norm(v[0], 2, v[1], v[2]); },
       {random({2, 4, 3}), row, random({4})});
  c.op("batch_norm_train",
       [](const Tensors& v) { return batch_norm(v[0], {}, {}, v[1], v[2], true); },
       {random({3, 2, 2, 2}), random({2}), random({2}, kFloat64, 4)});
  c.op("batch_norm_eval",
       [](const Tensors& v) {
         return batch_norm(v[0], tensor({0.1, -0.2}, kFloat64), tensor({0.5, 2}, kFloat64), v[1],
                           v[2], false);
       },
       {random({3, 2, 2}), random({2}), random({2}, kFloat64, 4)});
}

void add_convolutions(OpCases& c) {
  c.op("conv2d",
       [](const Tensors& v) {
         return conv2d(v[0], v[1], v[2],
                       {.stride = {2, 1},
                        .pad_begin = {1, 0},
                        .pad_end = {0, 1},
                        .dilation = {1, 2},
                        .groups = 2});
       },
       {random({2, 4, 5, 6}), random({2, 2, 2, 3}), random({2})});
  c.op("conv1d", [](const Tensors& v) { return conv1d(v[0], v[1], {}, 1, 2, 0); },
       {random({2, 2, 5}), random({3, 2, 3})});
  c.op("depthwise",
       [](const Tensors& v) {
         return conv2d(v[0], v[1], {}, {.pad_begin = {2, 2}, .pad_end = {2, 2}, .groups = 3});
       },
       {random({1, 3, 5, 4}), random({3, 1, 5, 5})});
  c.op("max_pool2d",
       [](const Tensors& v) {
         return max_pool2d(v[0], {.kernel = {2, 2}, .stride = {2, 1}, .padding = {1, 0}});
       },
       {distinct({1, 2, 4, 4})});
  c.op("avg_pool2d",
       [](const Tensors& v) {
         return avg_pool2d(v[0], {.kernel = {3, 2},
                                  .stride = {2, 2},
                                  .padding = {1, 1},
                                  .ceil_mode = true,
                                  .count_include_pad = false});
       },
       {random({2, 2, 5, 4})});
  c.op("adaptive_avg_pool2d",
       [](const Tensors& v) {
         return adaptive_avg_pool2d(v[0], {2, 3});
       },
       {random({2, 2, 5, 4})});
}

void add_losses(OpCases& c) {
  const Tensor x = random({3, 4});
  const Tensor y = random({3, 4}, kFloat64, 8);
  c.op("cross_entropy",
       [](const Tensors& v) {
         return cross_entropy(v[0], ids({1, 3, -100}, {3}), {}, "mean", -100, 0.1);
       },
       {x});
  c.op("cross_entropy_weighted",
       [](const Tensors& v) {
         return cross_entropy(v[0], ids({1, 3, 0}, {3}), tensor({1, 2, 0.5, 0.3}, kFloat64), "mean",
                              -100, 0.2);
       },
       {x});
  c.op("nll_loss",
       [](const Tensors& v) {
         return nll_loss(v[0], ids({1, 3, 0}, {3}), "sum");
       },
       {x});
  c.op("mse_loss", [](const Tensors& v) { return mse_loss(v[0], v[1]); }, {x, y});
  c.op("l1_loss", [](const Tensors& v) { return l1_loss(v[0], v[1]); }, {x, y});
  c.op("bce", [](const Tensors& v) { return binary_cross_entropy(sigmoid(v[0]), sigmoid(v[1])); },
       {x, y});
  c.op("bce_logits",
       [](const Tensors& v) { return binary_cross_entropy_with_logits(v[0], sigmoid(v[1])); },
       {x, y});
}

void add_attentions(OpCases& c) {
  c.op(
      "attention_causal",
      [](const Tensors& v) { return attention(v[0], v[1], v[2], {.causal = true, .alibi = true}); },
      {random({1, 4, 3, 4}), random({1, 2, 5, 4}), random({1, 2, 5, 3}, kFloat64, 5)});
  c.op("attention_bias",
       [](const Tensors& v) { return attention(v[0], v[0], v[0], {.attn_mask = v[1]}); },
       {random({1, 2, 3, 4}), random({3, 3})});
  c.op("rope_half", [](const Tensors& v) { return rope(v[0], "half"); }, {random({1, 2, 3, 4})});
  c.op("rope_interleaved", [](const Tensors& v) { return rope(v[0], "interleaved", 100, 2); },
       {random({1, 2, 3, 4})});
}

// functions of the factors that do not depend on their signs
void add_decompositions(OpCases& c) {
  c.op(
      "svd",
      [](const Tensors& v) {
        auto d = svd(v[0]);
        return matmul(d.U * sin(d.S).unsqueeze(-2), d.Vh);
      },
      {random({4, 3})}, false);
  c.op(
      "svd_wide",
      [](const Tensors& v) {
        auto d = svd(v[0]);
        return matmul(d.U * sin(d.S).unsqueeze(-2), d.Vh);
      },
      {random({2, 3, 4})}, false);
  c.op(
      "qr",
      [](const Tensors& v) {
        auto d = qr(v[0]);
        return matmul(sin(d.Q), d.R);
      },
      {random({4, 3})}, false);
  c.op(
      "eigh",
      [](const Tensors& v) {
        auto d = eigh(v[0] + v[0].mT());
        return matmul(d.vectors * sin(d.values), d.vectors.mT());
      },
      {random({3, 3})}, false);
  c.op("solve", [](const Tensors& v) { return solve(v[0], v[1]); },
       {random({3, 3}), random({3, 2})});
  c.op("inverse", [](const Tensors& v) { return inverse(v[0]); }, {random({3, 3})});
}

std::vector<OpCase> cases() {
  OpCases c;
  add_joining(c);
  add_indexing(c);
  add_products(c);
  add_norms(c);
  add_convolutions(c);
  add_losses(c);
  add_attentions(c);
  add_decompositions(c);
  return c.all;
}
INSTANTIATE_TEST_SUITE_P(Composed, Gradients, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace dropin
