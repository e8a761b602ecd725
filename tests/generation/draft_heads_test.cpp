// Draft heads: by definition, beside their base, by official names.
#include "dropin/generation/draft_heads.h"

#include <cmath>

#include "dropin/optimizer/optimizer.h"
#include "generation/models.h"

namespace dropin::testing {
namespace {

using Ids = std::vector<int64_t>;

HydraOptions hydra_options() {
  return {.embed_dim = 6,
          .vocab_size = 9,
          .num_heads = 3,
          .num_layers = 2,
          .prefix_attention = true,
          .prefix_mlp_dim = 8};
}
TEST(HydraHeads, ReadsTokensAheadAndNothingBehindThem) {
  const auto h = randomized(Box<HydraHeads>(new HydraHeads(hydra_options())), 5);
  const Tensor x = random({2, 6, 6}, kFloat32, 3), ids = prompts(9, {2, 6});
  const Tensor y = h->forward(x, ids).logits;
  for (int64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(amax(abs(y[i].narrow(1, 5 - i, i + 1))).item(), 0) << "rows without tokens";
    EXPECT_GT(amin(amax(abs(y[i].narrow(1, 0, 5 - i)), {2})).item(), 0);
    Tensor other = ids.clone();
    other.narrow(1, i + 2, 1).copy_(remainder(ids.narrow(1, i + 2, 1) + 1, 9));
    const Tensor z = h->forward(x, other).logits;
    EXPECT_EQ(max_difference(z[i].narrow(1, 0, 1), y[i].narrow(1, 0, 1)), 0) << "token i + 2";
    EXPECT_GT(max_difference(z[i].narrow(1, 1, 1), y[i].narrow(1, 1, 1)), 0) << "token i + 1";
  }
  EXPECT_LT(
      max_difference(h->forward(x.narrow(0, 1, 1), ids.narrow(0, 1, 1)).logits, y.narrow(1, 1, 1)),
      1e-5)
      << "samples do not see each other";
  Tensor later = x.clone();
  later.narrow(1, 4, 1).add_(1);
  EXPECT_EQ(max_difference(h->forward(later, ids).logits[0].narrow(1, 0, 4), y[0].narrow(1, 0, 4)),
            0)
      << "the prefix layer is causal";
  const auto none = h->forward(x.narrow(1, 0, 1), ids.narrow(1, 0, 1));
  EXPECT_EQ(amax(abs(none.logits)).item(), 0);
  sum(none.logits).backward();
  for (const Tensor& p : h->parameters())
    EXPECT_TRUE(!p.grad().defined() || amax(abs(p.grad())).item() == 0);
}

TEST(HydraHeads, PaddedKeysOfThePrefixLayerAreNotSeen) {
  const auto h = randomized(Box<HydraHeads>(new HydraHeads(hydra_options())), 5);
  Tensor x = random({1, 6, 6}, kFloat32, 3), mask = zeros({1, 6}, kBool);
  mask.narrow(1, 1, 1).fill_(true);
  const Tensor ids = prompts(9, {1, 6}), y = h->forward(x, ids, mask).logits;
  x.narrow(1, 1, 1).add_(1);
  EXPECT_EQ(max_difference(h->forward(x, ids, mask).logits.narrow(2, 2, 4), y.narrow(2, 2, 4)), 0);
  EXPECT_GT(max_difference(h->forward(x, ids).logits.narrow(2, 2, 1), y.narrow(2, 2, 1)), 0);
}

// A chain of best drafts is what forward() says of the same tokens.
void expect_chain(DraftHeads& h) {
  const Tensor x = random({8, 6}, kFloat32, 3);
  DraftHeads::State s = h.start(x.narrow(0, 0, 5));
  h.advance(x.narrow(0, 5, 3), s);
  const Ids chain = h.propose(draft_tree(std::vector<Ids>{{0}, {0, 0}, {0, 0, 0}}), 4, s);
  EXPECT_EQ(chain[0], 4);
  const Tensor wide = concat({x, zeros({4, 6})}, 0).unsqueeze(0);
  Ids ids(12, 0);
  for (std::size_t i = 0; i < 4; ++i) ids[8 + i] = chain[i];
  const Tensor y = h.forward(wide, tensor(ids).unsqueeze(0)).logits;
  for (int64_t i = 0; i < 3; ++i)
    EXPECT_EQ(y[i][0][7].argmax(0).item<int64_t>(), chain[static_cast<std::size_t>(i) + 1]);
}
TEST(DraftHeads, ProposeWhatForwardSays) {
  for (std::uint64_t seed = 1; seed < 6; ++seed) {
    HydraOptions o = hydra_options();
    expect_chain(*randomized(Box<HydraHeads>(new HydraHeads(o)), seed));
    o.prefix_attention = false;
    expect_chain(*randomized(Box<HydraHeads>(new HydraHeads(o)), seed));
    expect_chain(*randomized(
        Box<MedusaHeads>(new MedusaHeads({.embed_dim = 6, .vocab_size = 9, .num_heads = 3})),
        seed));
  }
}

TEST(DraftHeads, StartAsTheBasesOutputLayer) {
  MedusaHeads h({.embed_dim = 6, .vocab_size = 9, .num_heads = 2, .num_layers = 2});
  const Tensor w = random({9, 6}, kFloat32, 4), x = random({2, 3, 6}, kFloat32, 5);
  h.start_from(w);
  const Tensor y = h.forward(x).logits;
  EXPECT_LT(max_difference(y[0], linear(x, w)), 1e-5);
  EXPECT_LT(max_difference(y[1], linear(x, w)), 1e-5);
  EXPECT_ERROR(h.start_from(w.narrow(0, 0, 4)), ShapeError, "output_weight");
  HydraHeads hydra(hydra_options());
  const Tensor table = random({9, 6}, kFloat32, 6);
  hydra.share_embedding(table);
  EXPECT_TRUE(hydra.state_dict().find("embed_tokens.weight").data_ptr() == table.data_ptr());
}

TEST(DraftHeads, OfficialNamesAreRead) {
  auto h = randomized(Box<HydraHeads>(new HydraHeads(hydra_options())), 3);
  StateDict official;
  for (const auto& [name, t] : h->state_dict()) {
    std::string n = name;
    if (n.rfind("embed_tokens", 0) == 0) continue;
    if (n.rfind("mlp.", 0) == 0)  // block j stands behind j + 1 dropout layers
      n = "hydra_mlp." + n.substr(4, 2) + std::to_string(2 * (n[6] - '0') + 1) + n.substr(7);
    if (n.rfind("lm_head.", 0) == 0) n = "hydra_lm_head." + n.substr(8, 1) + ".1" + n.substr(9);
    if (n.rfind("prefix.", 0) == 0) n = "prefix_embeding_layer." + n.substr(7);
    official.set(n, t.clone());
  }
  official.set("input_embed_fn.weight", zeros({9, 6}));
  official.set("prefix_embeding_layer.embed_tokens.weight", zeros({9, 6}));
  official.set("prefix_embeding_layer.layers.0.self_attn.rotary_emb.inv_freq", zeros({3}));
  HydraHeads other(hydra_options());
  other.load_state_dict(official);
  for (const auto& [name, p] : h->named_parameters())
    EXPECT_EQ(max_difference(other.state_dict().find(name), p), 0) << name;

  const MedusaOptions tied{
      .embed_dim = 6, .vocab_size = 9, .num_heads = 2, .num_layers = 3, .tie_layers = true};
  auto m = randomized(Box<MedusaHeads>(new MedusaHeads(tied)), 3);
  StateDict medusa;
  for (const char* i : {"0", "1"}) {
    for (const char* j : {"0", "1", "2"})  // an alias each
      for (const char* k : {"weight", "bias"})
        medusa.set(join({i, ".", j, ".linear.", k}),
                   m->state_dict().find(join({"mlp.", i, ".0.linear.", k})));
    medusa.set(join({i, ".3.weight"}), m->state_dict().find(join({"lm_head.", i, ".weight"})));
  }
  MedusaHeads read(tied);
  read.load_state_dict(medusa);
  const Tensor x = random({1, 2, 6}, kFloat32, 4);
  EXPECT_EQ(max_difference(read.forward(x).logits, m->forward(x).logits), 0);
}

TEST(DraftHeadsLoss, FallsWhileTheBaseStaysAsItIs) {
  const Box<LanguageModel> base = llama_lm(4);
  auto& llama = dynamic_cast<LlamaLM&>(*base);
  base->requires_grad_(false);
  HydraHeads h({.embed_dim = 12, .vocab_size = 13, .num_heads = 2});
  h.share_embedding(llama.embedding_weight());
  h.start_from(llama.output_weight());
  const Tensor ids = prompts(13, {4, 12});
  const auto pass = llama.forward(ids);
  const Tensor before = llama.output_weight().clone();
  Adam adam(h.parameters(), {.lr = 0.01});
  double first = 0, last = 0;
  for (int step = 0; step < 60; ++step) {
    const auto g = h.forward(pass.hidden, ids);
    const DraftHeadsLoss l = draft_heads_loss(
        g.logits, ids, {.lm_weight = 1, .teacher_weight = 0.5, .reconstruction_weight = 0.1},
        pass.logits, g.head_hidden, pass.hidden);
    if (step == 0) first = l.loss.item();
    last = l.loss.item();
    h.zero_grad();
    l.loss.backward();
    adam.step();
  }
  EXPECT_LT(last, 0.5 * first);
  EXPECT_EQ(max_difference(llama.output_weight(), before), 0);
}

TEST(DraftHeadsLoss, WithoutLabelsItIsZero) {
  const Tensor logits = random({2, 1, 5, 4}, kFloat64, 3).requires_grad_();
  const Tensor labels = full({1, 5}, -100, kInt64);
  const DraftHeadsLoss l = draft_heads_loss(logits, labels);
  EXPECT_EQ(l.loss.item(), 0);
  const DraftHeadsLoss few =
      draft_heads_loss(logits.narrow(2, 0, 2), zeros({1, 2}, kInt64), {.lm_weight = 1});
  EXPECT_EQ(few.loss.item(), 0) << "no token is two places ahead";
  EXPECT_ERROR(draft_heads_loss(logits, labels, {.teacher_weight = 1}), StateError, "base_logits");
  EXPECT_ERROR(draft_heads_loss(logits, labels, {.reconstruction_weight = 1}), StateError,
               "head_hidden");
  EXPECT_ERROR(draft_heads_loss(logits, labels + 104), IndexError, "labels");
}

TEST(DraftHeads, RefuseInWords) {
  EXPECT_ERROR(MedusaHeads({.vocab_size = 4}), OptionError, "embed_dim");
  EXPECT_ERROR(MedusaHeads({.embed_dim = 4, .vocab_size = 4, .num_layers = 0}), OptionError,
               "num_layers");
  EXPECT_ERROR(MedusaHeads({.embed_dim = 4, .vocab_size = 4, .dropout = 1}), OptionError,
               "dropout");
  EXPECT_ERROR(HydraHeads({.embed_dim = 4, .vocab_size = 4, .prefix_attention = true}), OptionError,
               "prefix_mlp_dim");
  HydraHeads h(hydra_options());
  EXPECT_ERROR(h.forward(zeros({1, 3, 6})), ShapeError, "tokens");
  EXPECT_ERROR(h.forward(zeros({1, 3, 6}), full({1, 3}, 9, kInt64)), IndexError, "tokens");
  EXPECT_ERROR(h.forward(zeros({1, 3, 5}), zeros({1, 3}, kInt64)), ShapeError, "hidden");
  const DraftHeads::State s = h.start(zeros({2, 6}));
  EXPECT_ERROR(h.propose(draft_tree(Json("mc_sim_7b_63")), 0, s), OptionError, "deep");
}

}  // namespace
}  // namespace dropin::testing
