#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "dropin/convolution/sparse_ift_conv.h"
#include "dropin/embedding/char2subword.h"
#include "dropin/feed_forward/bilinear_mlp.h"
#include "dropin/feed_forward/moe.h"
#include "dropin/optimizer/optimizer.h"
#include "dropin/optimizer/rigl.h"
#include "dropin/projection/reft.h"
#include "dropin/projection/surm.h"
#include "evidence/claims.h"
#include "evidence/claims/tensors.h"

namespace dropin::evidence {
namespace {

// BilinearMLP: y = sign((a x)(b x)), and what the trained weights say

void spectrum(Findings& f, const ClaimData&) {
  manual_seed(1);
  Generator g(2);
  BilinearMLP m({.d_model = 32, .d_hidden = 64, .d_out = 1});
  AdamW adam(m.parameters(), {.lr = 1e-2, .weight_decay = 0.5});
  const Tensor hidden = qr(normal({32, 2}, 3)).Q.mT();  // a and b
  auto targets = [&](const Tensor& x, double flipped) {
    const Tensor s = sign(prod(matmul(x, hidden.mT()), {1}));
    return where(rand(s.sizes(), kFloat32, &g) < flipped, -s, s);
  };
  for (int i = 0; i < 1500; ++i) {
    const Tensor x = randn({256, 32}, kFloat32, &g), y = targets(x, 0.05);
    adam.zero_grad();
    mean(softplus(-(m(x).squeeze(-1) * y))).backward();
    adam.step();
  }
  no_grad guard;
  const Tensor u = ones({1, 1}), x = randn({4000, 32}, kFloat32, &g), y = targets(x, 0.05);
  auto accuracy = [&](const Tensor& score) {
    return mean((score.squeeze(-1) * y > 0.0).to(kFloat32)).item();
  };
  const BilinearMLP::Eigen e = m.eigen(u);
  const Tensor squares = square(e.values[0]);
  f.above("share of the interaction in the lowest and the highest eigenvalue",
          ((squares[0] + squares[31]) / sum(squares)).item(), 0.99);
  const Tensor two = stack({e.vectors[0][0], e.vectors[0][31]}, 0);
  for (int64_t i = 0; i < 2; ++i)
    f.above(fmt::format("length of hidden direction {} along these two", i + 1),
            norm(matmul(two, hidden[i])).item(), 0.97);
  const double whole = accuracy(m(x)), part = accuracy(m.truncated(u, 2, x));
  f.report(fmt::format("accuracy {:.3f}, with two eigenvectors {:.3f}", whole, part));
  f.below("difference", std::abs(whole - part), 0.005);
}

// ReMoE: routing without jumps

void continuity(Findings& f, const ClaimData&) {
  no_grad guard;
  auto largest = [](MixtureOfExperts& m, int64_t steps) {
    const Tensor a = normal({1, 16}, 1), b = normal({1, 16}, 2),
                 t = linspace(0, 1, steps).unsqueeze(1), y = m(a + (b - a) * t);
    return amax(norm(y.narrow(0, 1, steps - 1) - y.narrow(0, 0, steps - 1), {-1})).item();
  };
  TopKMoEOptions top;
  top.d_model = 16, top.d_ff = 32, top.num_experts = 8, top.top_k = 2;
  ReMoEOptions rectified;
  rectified.d_model = 16, rectified.d_ff = 32, rectified.num_experts = 8, rectified.top_k = 2;
  manual_seed(1);
  TopKMoE sharp(top);
  ReMoE smooth(rectified);
  for (MixtureOfExperts* m :
       {static_cast<MixtureOfExperts*>(&sharp), static_cast<MixtureOfExperts*>(&smooth)})
    for (auto& [name, p] : m->named_parameters())
      if (name == "router.weight") p.copy_(normal({8, 16}, 3));
  f.near("ReMoE: largest step of the output, 1000 over 10000 steps of the input",
         largest(smooth, 1000) / largest(smooth, 10000), 10, 2);
  f.below("top-k: the same", largest(sharp, 1000) / largest(sharp, 10000), 2);
}

// LoReFT: few numbers, an orthonormal subspace, untouched rows

void edits(Findings& f, const ClaimData&) {
  manual_seed(2);
  const int64_t d = 128, r = 4;
  LoReFT m({.embed_dim = d, .low_rank_dimension = r});
  Adam adam(m.parameters(), {.lr = 1e-2});
  const Tensor x = normal({16, 8, d}, 1), want = normal({16, 2, r}, 2),
               to = qr(normal({d, r}, 3)).Q;
  const Tensor at = tensor({0, 7}, {1, 2}, kInt64).expand({16, 2}).contiguous();
  auto loss = [&] {
    const Tensor y = m(x, at);
    const Tensor ends = stack({y.select(1, 0), y.select(1, 7)}, 1);
    return mse_loss(matmul(ends, to), want);
  };
  const double before = loss().item();
  for (int i = 0; i < 200; ++i) {
    adam.zero_grad();
    loss().backward();
    adam.step();
  }
  no_grad guard;
  f.below("loss after training the edit over that before", loss().item() / before, 0.7);
  f.below("R R^T - I after training", difference(matmul(m.rotation().mT(), m.rotation()), eye(r)),
          1e-5);
  const Tensor y = m(x, at);
  f.below("rows outside the positions, difference",
          difference(y.narrow(1, 1, 6), x.narrow(1, 1, 6)), 1e-30);
  f.near("numbers in use, r (2 d + 1), of those held", static_cast<double>(r * (2 * d + 1)),
         static_cast<double>(m.num_parameters()), 1e-9);
  DiReFT direct({.embed_dim = d, .low_rank_dimension = r});
  direct.load_state_dict(m.state_dict());
  const StateDict s = m.state_dict();
  const Tensor source = linear(x, s.find("learned_source.weight"), s.find("learned_source.bias"));
  f.below("DiReFT adds the source's direction, difference",
          difference(direct(x), x + matmul(source, m.rotation().mT())), 1e-5);
}

// SURM: how near each structure comes to a stationary kernel, at as many numbers

void structures(Findings& f, const ClaimData&) {
  const int64_t n = 64;
  Generator g(3);
  const Tensor apart = abs(arange(n).unsqueeze(1) - arange(n).unsqueeze(0)).to(kFloat32);
  const Tensor noise = randn({n, n}, kFloat32, &g);
  const Tensor target = exp(apart * -0.125) + (noise + noise.mT()) * 0.05;
  auto trained = [&](const char* structure) {
    SURMLinearOptions o;
    o.in_features = o.out_features = n;
    o.structure = structure;
    o.use_prod = false;
    o.init_std = 0.3;
    manual_seed(1);
    SURMLinear m(o);
    if (o.structure == "kronecker") {
      no_grad guard;
      for (auto& [name, p] : m.named_parameters())
        if (name == "surm.B") p.copy_(normal({8, 8}, 4) * 0.3);
    }
    Tensors learned;
    for (const Tensor& p : m.parameters())
      if (p.requires_grad()) learned.push_back(p);
    Adam adam(learned, {.lr = 0.02});
    for (int i = 0; i < 600; ++i) {
      adam.zero_grad();
      mse_loss(m.dense(), target).backward();
      adam.step();
    }
    no_grad guard;
    return (norm(m.dense() - target) / norm(target)).item();
  };
  const Tensor values = svd(target).S;
  const double low = std::sqrt(1 - (square(values[0]) / sum(square(values))).item());
  const double kronecker = trained("kronecker"), circulant = trained("circulant"),
               toeplitz = trained("toeplitz");
  f.report(
      fmt::format("relative error: rank 1 {:.3f}, Kronecker {:.3f}, circulant {:.3f}, "
                  "symmetric Toeplitz {:.3f}",
                  low, kronecker, circulant, toeplitz));
  f.holds("Toeplitz < circulant < Kronecker < rank 1",
          toeplitz < circulant && circulant < kronecker && kronecker < low);
  f.near("Kronecker", kronecker, 0.331, 0.02);
  f.near("circulant", circulant, 0.305, 0.02);
  f.near("Toeplitz", toeplitz, 0.198, 0.02);
  f.near("rank 1", low, 0.759, 0.02);
}

void frozen(Findings& f, const ClaimData&) {
  manual_seed(1);
  const Tensor x = normal({8, 256}, 2);
  auto check = [&](const char* name, detail::FrozenProjection& m) {
    const Tensor plain = linear(x, m.weight(), m.bias());
    f.below(fmt::format("{}: at the start, difference to the frozen layer", name),
            difference(m(x), plain), 1e-5);
    f.report(fmt::format("  trains {} of {} numbers", m.num_trainable(), m.num_parameters()));
    no_grad guard;
    std::uint64_t seed = 4;
    for (auto& [n, p] : m.named_parameters())
      if (p.requires_grad()) p.add_(normal(p.sizes(), ++seed), 0.01);
    m.eval();
    const Tensor y = m(x);
    m.merge();
    f.below("  merged, difference", difference(m(x), y), 1e-4);
  };
  LoRALinear low({.in_features = 256, .out_features = 256, .rank = 2});
  DoRALinear directed({.in_features = 256, .out_features = 256, .rank = 2});
  check("LoRALinear", low);
  check("DoRALinear", directed);
}

// Sparse-IFT: the same arithmetic in every form

void same_work(Findings& f, const ClaimData&) {
  const int64_t n = 512;
  for (const char* transform : {"wide", "parallel", "factorized", "doped"})
    for (const double s : {0.5, 0.75, 0.9}) {
      SparseIFTLinearOptions o;
      o.in_features = o.out_features = n;
      o.transform = transform;
      o.sparsity = s;
      manual_seed(1);
      SparseIFTLinear m(o);
      const StateDict state = m.state_dict();
      double products = 0;
      for (const auto& [name, t] : state) {
        if (t.dim() != 2 || name.find("mask") != std::string::npos) continue;
        const Tensor mask = state.find(name + "_mask");
        products += mask.defined() ? sum(mask.to(kFloat32)).item() : static_cast<double>(t.numel());
      }
      f.near(fmt::format("{} at s = {}: products over the dense layer's", transform, s),
             products / static_cast<double>(n * n), 1, 0.03);
    }
}

// Char2Subword: spellings give the embeddings of words

void spellings(Findings& f, const ClaimData&) {
  manual_seed(1);
  Generator g(5);
  std::vector<std::string> words;
  for (int i = 0; i < 100; ++i) {
    std::string w;
    const int64_t length = randint(4, 9, {}, kInt64, &g).item<int64_t>();
    for (int64_t k = 0; k < length; ++k)
      w += static_cast<char>('a' + randint(0, 26, {}, kInt64, &g).item<int64_t>());
    words.push_back(w);
  }
  const CharVocab vocab(words);
  Char2Subword m({.num_chars = vocab.size(),
                  .embed_dim = 32,
                  .char_dim = 48,
                  .num_layers = 1,
                  .num_heads = 4,
                  .ff_dim = 96,
                  .dropout = 0});
  Adam adam(m.parameters(), {.lr = 2e-3});
  const Tensor table = randn({100, 32}, kFloat32, &g), ids = m.encode(words, vocab);
  for (int i = 0; i < 300; ++i) {
    const Tensor at = randint(0, 100, {64}, kInt64, &g);
    adam.zero_grad();
    char2subword_loss(m(index_select(ids, 0, at)), table, at).backward();
    adam.step();
  }
  no_grad guard;
  m.eval();
  const Tensor nearest = argmax(matmul(m(ids), table.mT()), -1);
  f.above("nearest row of the table is the word's, share",
          mean((nearest == arange(100)).to(kFloat32)).item(), 0.95);
  const Tensor want = m(ids);
  m.build_cache(words, vocab);
  f.below("lookups of kept words, difference to the module",
          difference(m.lookup(words, vocab), want), 1e-5);
}

}  // namespace

void update_claims(Claims& all) {
  all.push_back({{"BilinearMLP", "bilinear_eigen"},
                 "",
                 "as accurate as gated layers, and its weights show what it uses",
                 "low-rank, interpretable spectra on toy tasks, images and small language models",
                 spectrum,
                 ""});
  all.push_back({{"ReMoE", "TopKMoE", "remoe_lambda_update"},
                 "",
                 "routing is continuous where top-k jumps",
                 "lower validation loss than top-k, 182M to 978M active parameters",
                 continuity,
                 ""});
  all.push_back({{"LoReFT", "DiReFT", "reft_positions"},
                 "",
                 "a few numbers that edit hidden states fine-tune a frozen model",
                 "10 to 50 times fewer parameters than earlier methods",
                 edits,
                 ""});
  all.push_back({{"SURMLinear", "SURMAdapter"},
                 "",
                 "structured matrices of full rank come nearer than low rank at as many numbers",
                 "5 to 7 % more accuracy than LoRA on image classification",
                 structures,
                 ""});
  all.push_back({{"LoRALinear", "DoRALinear"},
                 "",
                 "a trained update starts at nothing and merges into the frozen weight",
                 "10000 times fewer trained parameters for GPT-3",
                 frozen,
                 ""});
  all.push_back({{"SparseIFTLinear", "SparseIFTConv2d", "rigl_update"},
                 "",
                 "larger sparse layers at the work of the dense one",
                 "ResNet-18 on ImageNet: 3.5 % more accuracy",
                 same_work,
                 ""});
  all.push_back({{"Char2Subword", "char2subword_loss"},
                 "",
                 "embeddings of words from their spelling imitate a table",
                 "better than mBERT on code-switched text (LinCE)",
                 spellings,
                 ""});
}

}  // namespace dropin::evidence
