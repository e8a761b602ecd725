#include "dropin/sequence/matrix_mixer.h"

#include <numbers>

#include "dropin/registry/registry.h"
#include "kernels/hd.h"
#include "sequence/state_space_blocks.h"
#include "support.h"

namespace dropin {
namespace {

using testing::Block;
using testing::in_double;
using testing::max_difference;
using testing::quasiseparable;
using testing::random;

double entry(const std::string& type, const Tensor& q, const Tensor& k, int64_t i, int64_t j,
             double shift, double max_len) {
  const auto n = static_cast<double>(q.size(1));
  double s = 0;
  for (int64_t d = 0; d < q.size(1); ++d) {
    const double a = q[i][d].item(), b = k[j][d].item(), turn = 2 * std::numbers::pi * 1e-3;
    if (type == "cauchy") s += 1 / (std::exp(a) + shift + std::exp(b) + shift + 1e-8);
    if (type == "low_rank") s += a * b;
    if (type == "vandermonde")
      s +=
          std::cos(turn * a * static_cast<double>(j)) - std::cos(turn * b * static_cast<double>(i));
  }
  return s / std::sqrt((type == "vandermonde" ? 2 : 1) * max_len * n);
}

TEST(MatrixMixer, EachEqualsItsDenseMatrix) {
  no_grad guard;
  const int64_t l = 7, e = 12, h = 3, p = 4, qk = 2, lm = 7;
  struct Kind {
    const char* name;
    bool dependent;
    const char* alignment = "exact";
  };
  for (const Kind& kind :
       {Kind{"dense", false}, Kind{"low_rank", true}, Kind{"low_rank", false},
        Kind{"attention", true}, Kind{"cauchy", true}, Kind{"cauchy", false},
        Kind{"vandermonde", true}, Kind{"vandermonde", false}, Kind{"dft", false},
        Kind{"toeplitz", true}, Kind{"toeplitz", true, "official"}}) {
    const std::string type = kind.name;
    SCOPED_TRACE(type + (kind.dependent ? " of the tokens " : " ") + kind.alignment);
    auto m = in_double<MatrixMixer>(MatrixMixerOptions{.matrix_mixer_type = type,
                                                       .is_data_dependent = kind.dependent,
                                                       .d_model = 6,
                                                       .qk_dim = qk,
                                                       .max_seq_len = lm,
                                                       .d_conv = 3,
                                                       .headdim = p,
                                                       .toeplitz_alignment = kind.alignment});
    const int64_t extras = !kind.dependent ? 0 : type == "toeplitz" ? 2 * h : 2 * h * qk;
    const Tensor x = random({1, l, 6});
    const Block block(*m, x, e, e + extras);
    const Tensor v = silu(block.mixed.narrow(2, 0, e));
    Tensor extra = block.mixed.narrow(2, e, extras), y = zeros({1, l, e}, kFloat64);
    if (type == "toeplitz" || type == "low_rank") extra = silu(extra);
    for (int64_t k = 0; k < h; ++k) {
      Tensor dense = zeros({l, l}, kFloat64), q, keys;
      if (kind.dependent && type != "toeplitz") {
        q = extra[0].narrow(1, k * qk, qk), keys = extra[0].narrow(1, (h + k) * qk, qk);
      } else if (block.s.contains("matrix_mixer.q_matrix")) {
        q = block.s.find("matrix_mixer.q_matrix").select(1, k);
        keys = block.s.find("matrix_mixer.k_matrix").select(1, k);
      }
      const bool shifted = block.s.contains("matrix_mixer.bias");
      const double shift = shifted ? block.s.find("matrix_mixer.bias").item() : 0;
      const int64_t late = type == "toeplitz" && std::string(kind.alignment) == "official";
      for (int64_t i = 0; i < l; ++i)
        for (int64_t j = 0; j < l; ++j) {
          double value;
          if (type == "dense") {
            value = block.s.find("matrix_mixer.M")[k][i][j].item() / std::sqrt(lm);
          } else if (type == "dft" || (type == "vandermonde" && !kind.dependent)) {
            value =
                std::cos(2 * std::numbers::pi * static_cast<double>(i * j) / lm) / std::sqrt(lm);
          } else if (type == "toeplitz") {
            const int64_t lag = i - j + late;
            const Tensor fwd = extra[0].select(1, k), rev = extra[0].select(1, h + k);
            value = (lag == l   ? rev[l - 1]
                     : lag >= 0 ? fwd[lag]
                                : rev[-lag])
                        .item() *
                    0.5 / std::sqrt(lm);
          } else if (type == "attention") {
            value = softmax(matmul(q, keys.mT()) / std::sqrt(qk), -1)[i][j].item();
          } else {
            value = entry(type, q, keys, i, j, shift, lm);
          }
          dense[i][j] = value;
        }
      const Tensor own = v[0].narrow(1, k * p, p);
      y[0].narrow(1, k * p, p).copy_(matmul(dense, own) + own);
    }
    EXPECT_LT(max_difference((*m)(x), block.end(y)), 1e-10);
  }
}

TEST(MatrixMixer, QuasiseparableSharesItsKeys) {
  no_grad guard;
  const int64_t l = 9, e = 12, h = 3, p = 4, n = 6;
  auto m = in_double<MatrixMixer>(
      MatrixMixerOptions{.d_model = 6, .qk_dim = 2, .max_seq_len = 9, .headdim = p});
  const Tensor x = random({1, l, 6});
  const Block block(*m, x, e, e + 2 * n);
  auto own = [&](const char* name) { return block.s.find(std::string("matrix_mixer.") + name); };
  const Tensors of = split(silu(block.mixed), Shape{e, n, n}, 2);
  const Tensor dt = softplus(block.rest + concat({own("dt_bias"), own("dt_bias")})),
               diagonal = own("D") + linear(of[0], own("fc_D.weight"));
  Tensor y = zeros({1, l, e}, kFloat64);
  for (int64_t k = 0; k < h; ++k)
    y[0].narrow(1, k * p, p)
        .copy_(matmul(quasiseparable(dt[0].select(1, k), dt[0].select(1, h + k),
                                     -std::exp(own("A_log")[k].item()), of[1][0], of[2][0],
                                     of[1][0], of[2][0], diagonal[0].select(1, k)),
                      of[0][0].narrow(1, k * p, p)));
  EXPECT_LT(max_difference((*m)(x), block.end(y)), 1e-10);
}

TEST(MatrixMixer, RefusesWhatDoesNotFitInWords) {
  auto make = [](const std::string& more) {
    return dropin::make("MatrixMixer",
                        Json::parse(R"({"d_model": 6, "qk_dim": 2, "max_seq_len": 5, )" + more +
                                    R"(, "headdim": 4})"));
  };
  EXPECT_ERROR(make(R"("matrix_mixer_type": "dense")"), OptionError,
               "dense has no data-dependent form");
  EXPECT_ERROR(make(R"("matrix_mixer_type": "attention", "is_data_dependent": false)"), OptionError,
               "attention has no data-independent form");
  EXPECT_ERROR(make(R"("matrix_mixer_type": "diagonal")"), OptionError,
               "matrix_mixer_type is \"diagonal\", expected dense, low_rank");
  EXPECT_ERROR(make(R"("toeplitz_alignment": "other")"), OptionError, "expected exact or official");
  const Tensor x = zeros({1, 6, 6});
  EXPECT_ERROR(make(R"("matrix_mixer_type": "toeplitz")")->call({{"x", x.narrow(1, 0, 4)}}),
               ShapeError, "expected L = max_seq_len = 5");
  for (const char* type : {"dense", "low_rank", "cauchy", "dft"})
    EXPECT_ERROR(
        make(std::string(R"("is_data_dependent": false, "matrix_mixer_type": ")") + type + "\"")
            ->call({{"x", x}}),
        ShapeError, "expected L <= max_seq_len = 5");
  EXPECT_EQ(make(R"("matrix_mixer_type": "low_rank")")->call({{"x", x}}).find("y").sizes(),
            x.sizes());
}

}  // namespace
}  // namespace dropin
