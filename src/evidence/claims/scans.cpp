#include <fmt/format.h>

#include <cmath>

#include "dropin/ops/normalize.h"
#include "dropin/ops/ssd_scan.h"
#include "dropin/quantizer/binary_spherical.h"
#include "dropin/sequence/fast_forgetful_memory.h"
#include "dropin/sequence/hydra.h"
#include "dropin/sequence/rnn.h"
#include "evidence/claims.h"
#include "evidence/claims/tensors.h"

namespace dropin::evidence {
namespace {

// HydraMixer: linear time, and every token reaches every other

void both_ways(Findings& f, const ClaimData&) {
  no_grad guard;
  auto scan = [](int64_t l) -> Call {
    const Tensor x = normal({1, l, 4, 32}, 1), dt = softplus(normal({1, l, 4}, 2)),
                 a = -exp(normal({4}, 3)), b = normal({1, l, 1, 32}, 4),
                 c = normal({1, l, 1, 32}, 5);
    return [=] { ssd_scan(x, dt, a, b, c); };
  };
  f.below("ssd_scan: t(4096) / t(1024)",
          contest(scan(1024), scan(4096), {.rounds = 3, .min_time = 0.05}), 5);
  manual_seed(1);
  HydraMixer m({.d_model = 32, .d_state = 16, .headdim = 16});
  const Tensor x = normal({1, 200, 32}, 6);
  Tensor changed = x.clone();
  changed[0][100].add_(1.0);
  const Tensor moved = amax(abs(m(changed) - m(x)), {0, 2});
  f.above("one token changed: least change among all outputs", amin(moved).item(), 0);
  f.above("  before it", amin(moved.narrow(0, 0, 90)).item(), 0);
}

// FastForgetfulMemory: a layer that trains in one scan

void forgetting(Findings& f, const ClaimData&) {
  manual_seed(1);
  GRU gru({.input_size = 64, .hidden_size = 256});
  FastForgetfulMemory memory(
      {.input_size = 64, .memory_size = 32, .context_size = 4, .output_size = 128});
  auto trained = [](SequenceMixer& m, int64_t length) -> Call {
    return [&m, x = normal({4, length, 64}, 2)] {
      m.zero_grad();
      sum(square(m(x))).backward();
    };
  };
  f.above("forward and backward, [4, 256, 64]: times faster than GRU of as many states",
          contest(trained(memory, 256), trained(gru, 256), {.rounds = 3, .min_time = 0.01}), 4);
  f.below("t(2048) / t(512)",
          contest(trained(memory, 512), trained(memory, 2048), {.rounds = 3, .min_time = 0.02}), 6);
  no_grad guard;
  const Tensor x = normal({2, 50, 64}, 3), y = memory(x);
  Tensor state = memory.initial_state(2);
  double worst = 0;
  for (int64_t t = 0; t < 50; ++t) {
    const auto r = memory.step(x.select(1, t), state);
    state = r.state;
    worst = std::max(worst, difference(r.y, y.select(1, t)));
  }
  f.below("step() against the scan, difference", worst, 1e-5);
}

// BinarySphericalQuantizer: the distance to the code is bounded in D

void sphere(Findings& f, const ClaimData&) {
  no_grad guard;
  for (const auto& [d, want] :
       {std::pair<int64_t, double>{9, 0.3594}, {18, 0.3819}, {28, 0.3899}, {36, 0.3931}}) {
    const BinarySphericalQuantizer q({.embed_dim = d, .group_size = 1, .input_format = "blc"});
    const Tensor z = normalize(normal({20000, d}, 7));
    f.near(fmt::format("{} bits: mean squared distance of unit vectors", d),
           mean(sum(square(z - q.codes(z).y), {1})).item(), want, 2e-3);
  }
  const Tensor z = normalize(normal({500, 18}, 8)).to(kFloat64);
  auto entropy = [&](const char* how) {
    BinarySphericalQuantizer q({.embed_dim = 18,
                                .group_size = 9,
                                .gamma_1 = 0,
                                .input_format = "blc",
                                .persample_entropy_compute = how,
                                .inv_temperature = 2});
    return q.codes(z).loss.item();
  };
  f.near("entropy by groups over that by bits", entropy("group") / entropy("analytical"), 1, 1e-4);
}

}  // namespace

void scan_claims(Claims& all) {
  all.push_back({{"HydraMixer", "ssd_scan"},
                 "",
                 "two scans and a free diagonal mix all tokens in linear time",
                 "GLUE 84.3 (BERT + 0.8), ImageNet-1K 81.0 (ViT + 2)",
                 both_ways,
                 ""});
  all.push_back({{"FastForgetfulMemory"},
                 "",
                 "a memory that trains in one scan, where a GRU goes token by token",
                 "about 100 times faster training than RNNs",
                 forgetting,
                 ""});
  all.push_back({{"BinarySphericalQuantizer"},
                 "",
                 "binary codes of any length lie near, and their entropies factorize",
                 "rFID 0.41 at 36 bits",
                 sphere,
                 ""});
}

}  // namespace dropin::evidence
