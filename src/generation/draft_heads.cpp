#include "dropin/generation/draft_heads.h"

#include <cmath>

#include "dropin/module/dropout.h"
#include "generation/decoding.h"
#include "generation/states.h"

namespace dropin {

namespace {

struct DraftBlockOptions {
  int64_t in = 0, out = 0;
  bool skip = false;
  static void fields(auto&& f) {
    using O = DraftBlockOptions;
    f("in", &O::in, "width of x");
    f("out", &O::out, "width of y");
    f("skip", &O::skip, "x is added by a layer of its own");
  }
};
// x + SiLU(W x + b), or R x + r + SiLU(W x + b). W and b start at 0.
class DraftBlock : public Component<DraftBlock, DraftBlockOptions, Module> {
 public:
  explicit DraftBlock(const DraftBlockOptions& o) : Component(o) {
    linear_ = child<Linear>("linear", {.in_features = o.in, .out_features = o.out});
    if (o.skip)
      skip_ = child<Linear>("res_connection", {.in_features = o.in, .out_features = o.out});
    no_grad guard;
    linear_.as()->weight().zero_();
    linear_.as()->bias().zero_();
  }
  Tensor operator()(const Tensor& x) { return (skip_ ? skip_(x) : x) + silu(linear_(x)); }

 private:
  Child<Linear> linear_, skip_;
};

constexpr int64_t kDraftVocab[] = {12, 64, 256, 1024}, kDraftWidth[] = {8, 16, 64, 256};

}  // namespace

FamilyInfo DraftHeads::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "hidden [B, L, D], tokens [B, L] int64 -> logits [H, B, L, V], head_hidden [H, B, L, D]";
  f.options = [](int size) {
    const SampleSpec s{.size = size};
    return json_of({{"vocab_size", s.of(kDraftVocab)}, {"embed_dim", s.of(kDraftWidth)}});
  };
  f.inputs = [](const Json& o, const SampleSpec& s) {
    const int64_t batch = s.batch >= 0 ? s.batch : s.size ? 8 : 2;
    const int64_t length = s.length >= 0 ? s.length : s.size ? 64 : 6;
    const int64_t width = option_or(o, {"embed_dim"}, s.of(kDraftWidth));
    const int64_t vocab = option_or(o, {"vocab_size"}, s.of(kDraftVocab));
    return Sample{{{"hidden", s.normal({batch, length, width})},
                   {"tokens", s.integers(vocab, {batch, length})}}};
  };
  f.bad_inputs = [](const Json&) {
    return std::vector<BadInput>{
        {{{"hidden", zeros({2, 3, 99})}, {"tokens", zeros({2, 3}, kInt64)}}},
        {{{"hidden", zeros({2, 8})}, {"tokens", zeros({2, 3}, kInt64)}}}};
  };
  f.traits.no_batch = true;  // the batch is no result's first size
  return f;
}

void DraftHeads::build(const Layout& o) {
  DROPIN_CHECK(o.embed_dim > 0 && o.vocab_size > 0 && o.num_heads > 0 && o.num_layers > 0,
               OptionError, type(), ": embed_dim ", o.embed_dim, ", vocab_size ", o.vocab_size,
               ", num_heads ", o.num_heads, " and num_layers ", o.num_layers, " must be positive");
  DROPIN_CHECK(o.dropout >= 0 && o.dropout < 1, OptionError, type(), ": dropout is ", o.dropout,
               ", expected 0 to below 1");
  layout_ = o;
  const int64_t own = o.reads_tokens ? 2 : 1;  // blocks that tied layers leave
  mlp_ = child<ModuleList>("mlp");
  lm_head_ = child<ModuleList>("lm_head");
  for (int64_t i = 0; i < o.num_heads; ++i) {
    const Child<ModuleList> blocks = mlp_->append<ModuleList>();
    for (int64_t j = 0; j < (o.tie_layers ? std::min(own, o.num_layers) : o.num_layers); ++j) {
      const bool first = o.reads_tokens && j == 0;
      blocks->append<DraftBlock>(
          {.in = first ? (i + 2) * o.embed_dim : o.embed_dim, .out = o.embed_dim, .skip = first});
    }
    lm_head_->append<Linear>(
        {.in_features = o.embed_dim, .out_features = o.vocab_size, .bias = o.lm_head_bias});
  }
}

void DraftHeads::start_from(const Tensor& output_weight) {
  const Shape want{layout_.vocab_size, layout_.embed_dim};
  DROPIN_CHECK(output_weight.sizes() == want, ShapeError, type(), ": output_weight is ",
               output_weight.sizes(), ", expected ", want);
  no_grad guard;
  for (int64_t i = 0; i < layout_.num_heads; ++i)
    for (const Tensor& p : (*lm_head_)[i].parameters()) {
      if (p.dim() == 2) p.detach().copy_(output_weight);
      if (p.dim() == 1) p.detach().zero_();
    }
}

Tensor DraftHeads::head_hidden(int64_t head, Tensor x) {
  auto& blocks = dynamic_cast<ModuleList&>((*mlp_)[head]);
  for (int64_t j = 0; j < layout_.num_layers; ++j) {
    x = dropout(x, layout_.dropout, is_training());
    x = dynamic_cast<DraftBlock&>(blocks[std::min(j, blocks.size() - 1)])(x);
  }
  return x;
}
Tensor DraftHeads::head_logits(int64_t head, const Tensor& z) {
  return dynamic_cast<Projection&>((*lm_head_)[head])(dropout(z, layout_.dropout, is_training()));
}

void DraftHeads::check_inputs(const Tensor& hidden, const Tensor& tokens) const {
  DROPIN_CHECK(is_floating(hidden.dtype()), DTypeError, type(), ": hidden is ", hidden.dtype(),
               ", expected floats");
  DROPIN_CHECK(hidden.dim() == 3 && hidden.size(2) == layout_.embed_dim, ShapeError, type(),
               ": hidden is ", hidden.sizes(), ", expected [B, L, ", layout_.embed_dim, "]");
  if (!layout_.reads_tokens) return;
  DROPIN_CHECK(tokens.defined() && tokens.dtype() == kInt64 &&
                   tokens.sizes() == Shape({hidden.size(0), hidden.size(1)}),
               ShapeError, type(), ": tokens are ", tokens.defined() ? tokens.sizes() : Shape{},
               ", expected int64 [", hidden.size(0), ", ", hidden.size(1), "]");
  for (const int64_t t : tokens.to_vector<int64_t>())
    DROPIN_CHECK(t >= 0 && t < layout_.vocab_size, IndexError, type(), ": tokens hold ", t,
                 ", expected 0 to ", layout_.vocab_size - 1);
}

DraftHeads::Guesses DraftHeads::forward(const Tensor& hidden, const Tensor& tokens,
                                        const Tensor& key_padding_mask) {
  check_inputs(hidden, tokens);
  const int64_t length = hidden.size(1);
  const Tensor c = context(hidden, key_padding_mask, nullptr);
  const Tensor e = layout_.reads_tokens ? embedded(tokens) : Tensor();
  Tensors logits, states;
  for (int64_t i = 0; i < layout_.num_heads; ++i) {
    const int64_t gap = std::min(length, missing_rows(i)), n = length - gap;
    Tensors parts = {c.narrow(1, 0, n)};
    for (int64_t k = 1; k <= missing_rows(i); ++k) parts.push_back(e.narrow(1, n > 0 ? k : 0, n));
    const Tensor z = head_hidden(i, parts.size() > 1 ? concat(parts, -1) : parts[0]);
    states.push_back(pad(z, {0, 0, 0, gap}));
    logits.push_back(pad(head_logits(i, z), {0, 0, 0, gap}));
  }
  return {stack(logits), stack(states)};
}

NamedTensors DraftHeads::call(const NamedTensors& in) {
  const Tensor hidden = in.get("hidden", type()), given = in.find("tokens");
  const Guesses g = forward(hidden, layout_.reads_tokens ? in.get("tokens", type()) : given,
                            in.find("key_padding_mask"));
  return {{"logits", g.logits}, {"head_hidden", g.head_hidden}};
}

// --- decoding

// To the heads' dtype and device: a base may compute otherwise.
Tensor DraftHeads::cast(const Tensor& hidden) const {
  DROPIN_CHECK(hidden.dim() == 2 && hidden.size(0) > 0 && hidden.size(1) == layout_.embed_dim,
               ShapeError, type(), ": hidden is ", hidden.sizes(), ", expected [n, ",
               layout_.embed_dim, "]");
  const Tensor p = parameters()[0];
  return hidden.to(p.dtype(), p.device()).unsqueeze(0);
}

DraftHeads::State DraftHeads::start(const Tensor& hidden) {
  State s;
  advance(hidden, s);
  return s;
}
void DraftHeads::advance(const Tensor& hidden, State& state) {
  no_grad guard;
  state.context = context(cast(hidden), {}, &state.cache)[0][-1];
}

std::vector<int64_t> DraftHeads::propose(const DraftTree& tree, int64_t root, const State& state) {
  no_grad guard;
  DROPIN_CHECK(tree.max_depth() <= layout_.num_heads, OptionError, type(), ": the tree is ",
               tree.max_depth(), " deep, expected at most num_heads = ", layout_.num_heads);
  std::vector<int64_t> tokens(tree.parent.size(), root);
  std::vector<Tensor> before(tree.parent.size());  // [c; e(root); ...; e(node)] of each node
  for (int64_t d = 0; d < tree.max_depth(); ++d) {
    std::vector<int64_t> parents, most;  // nodes of depth d with children, and their largest rank
    for (int64_t i = 0; i < tree.size(); ++i) {
      if (tree.depth[at(i)] != d + 1) continue;
      const int64_t up = tree.parent[at(i)];
      if (parents.empty() || parents.back() != up) {
        parents.push_back(up);
        most.push_back(0);
      }
      most.back() = std::max(most.back(), tree.rank[at(i)]);
    }
    Tensor x = state.context.unsqueeze(0);
    if (layout_.reads_tokens) {
      Tensors rows;
      for (const int64_t p : parents) {
        const Tensor e = embedded(full({1}, tokens[at(p)], {kInt64, x.device()}))[0];
        before[at(p)] = concat({d == 0 ? state.context : before[at(tree.parent[at(p)])], e}, 0);
        rows.push_back(before[at(p)]);
      }
      x = stack(rows);
    }
    const std::vector<double> z = head_logits(d, head_hidden(d, x)).to_vector();
    const int64_t v = layout_.vocab_size;
    for (const double value : z)
      DROPIN_CHECK(!std::isnan(value), StateError, type(), ": logits of head ", d,
                   " are NaN, expected numbers");
    for (std::size_t m = 0; m < parents.size(); ++m) {
      const double* row = z.data() + (layout_.reads_tokens ? static_cast<int64_t>(m) * v : 0);
      const auto best = generation::best_of(row, v, most[m] + 1);
      DROPIN_CHECK(!best.empty(), StateError, type(), ": all logits of head ", d,
                   " are -inf, expected numbers");
      for (int64_t i = parents[m] + 1; i < tree.size(); ++i)
        if (tree.parent[at(i)] == parents[m])
          tokens[at(i)] = best[std::min(at(tree.rank[at(i)]), best.size() - 1)];
    }
  }
  return tokens;
}

Box<DraftHeads> draft_heads_of(std::string_view who, const Json& spec) {
  const auto [type, options] = generation::typed(who, "heads", spec);
  if (type == "MedusaHeads")
    return Box<DraftHeads>(new MedusaHeads(options_from_json<MedusaOptions>(options, type)));
  DROPIN_CHECK(type == "HydraHeads", OptionError, who, ": heads is of type \"", type,
               "\", expected MedusaHeads or HydraHeads; other heads are given as modules");
  return Box<DraftHeads>(new HydraHeads(options_from_json<HydraOptions>(options, type)));
}

// --- the two kinds

MedusaHeads::MedusaHeads(const MedusaOptions& o) : Component(o) {
  build({o.embed_dim, o.vocab_size, o.num_heads, o.num_layers, o.tie_layers, o.lm_head_bias,
         o.dropout, false});
}

}  // namespace dropin
