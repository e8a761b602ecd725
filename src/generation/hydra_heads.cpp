// HydraHeads, and the names of official checkpoints.
#include "dropin/generation/draft_heads.h"
#include "dropin/module/state_names.h"
#include "kernels/hd.h"

namespace dropin {

// A base's embedding: not learned here.
class HydraHeads::Table : public Module {
 public:
  Table(int64_t rows, int64_t width) : rows_(rows), width_(width) {
    weight_ = &buffer("weight", init::normal({rows, width}, 1));
  }
  std::string_view type() const override { return "Table"; }
  Box<Module> make_like() const override { return Box<Module>(new Table(rows_, width_)); }
  Tensor& weight() { return *weight_; }

 private:
  int64_t rows_, width_;
  Tensor* weight_;
};

HydraHeads::HydraHeads(const HydraOptions& o) : Component(o) {
  build({o.embed_dim, o.vocab_size, o.num_heads, o.num_layers, o.tie_layers, o.lm_head_bias,
         o.dropout, true});
  embed_tokens_ =
      Child<Module>(add_child("embed_tokens", Box<Module>(new Table(o.vocab_size, o.embed_dim))));
  if (!o.prefix_attention) return;
  DROPIN_CHECK(o.prefix_mlp_dim > 0, OptionError, who(), ": prefix_mlp_dim is ", o.prefix_mlp_dim,
               ", expected a positive number with prefix_attention");
  prefix_ = child<LlamaStack>("prefix", {.embed_dim = o.embed_dim,
                                         .num_heads = o.prefix_num_heads,
                                         .num_kv_heads = o.prefix_num_kv_heads,
                                         .mlp_dim = o.prefix_mlp_dim,
                                         .rope_theta = o.rope_theta,
                                         .rms_eps = o.rms_eps});
}

HydraHeads::Table& HydraHeads::table() const { return dynamic_cast<Table&>(*embed_tokens_); }

void HydraHeads::share_embedding(const Tensor& weight) {
  const Shape want{options_.vocab_size, options_.embed_dim};
  DROPIN_CHECK(weight.sizes() == want, ShapeError, who(), ": weight is ", weight.sizes(),
               ", expected ", want);
  table().weight() = weight.detach();
}

Tensor HydraHeads::embedded(const Tensor& ids) const { return embedding(table().weight(), ids); }

Tensor HydraHeads::context(const Tensor& hidden, const Tensor& key_padding_mask,
                           LlamaCache* cache) {
  if (!prefix_) return hidden;
  LlamaStack& prefix = *prefix_.as();
  if (!cache) return prefix.forward(hidden, key_padding_mask);
  if (cache->lengths.empty()) *cache = prefix.init_cache(1);
  LlamaTokens order;
  for (int64_t i = 0; i < hidden.size(1); ++i) order.offset.push_back(i);
  const Tensor c = prefix.step(hidden, *cache, order);
  cache->lengths[0] += hidden.size(1);
  return c;
}

// --- official names

namespace {

// "3.rest" -> 3 and "rest"; -1 where it does not begin with a number.
std::pair<int64_t, std::string> numbered(const std::string& s) {
  std::size_t n = 0;
  while (n < s.size() && n < 9 && s[n] >= '0' && s[n] <= '9') ++n;
  if (n == 0 || n == s.size() || s[n] != '.') return {-1, s};
  return {std::stoll(s.substr(0, n)), s.substr(n + 1)};
}
bool begins(const std::string& s, std::string_view with) { return s.rfind(with, 0) == 0; }
bool ends(const std::string& s, std::string_view with) {
  return s.size() >= with.size() && s.compare(s.size() - with.size(), with.size(), with) == 0;
}

}  // namespace

// The own name of an official one; empty: to be dropped. interleaved: dropout layers count.
std::string DraftHeads::own_name(const std::string& name, bool interleaved) const {
  constexpr std::string_view kMlp = "hydra_mlp.", kHead = "hydra_lm_head.",
                             kPrefix = "prefix_embeding_layer.";
  if (begins(name, "input_embed_fn.") || ends(name, "inv_freq") ||
      begins(name, "prefix_embeding_layer.embed_tokens."))
    return "";
  if (begins(name, kPrefix)) return "prefix." + name.substr(kPrefix.size());
  const bool hydra = begins(name, kMlp), head = begins(name, kHead);
  if (hydra || head) {
    const auto [i, rest] = numbered(name.substr(hydra ? kMlp.size() : kHead.size()));
    const auto [j, last] = numbered(rest);
    const std::string number = std::to_string(i) + ".";
    if (head) return "lm_head." + number + last;
    return "mlp." + number + std::to_string(interleaved ? (j - 1) / 2 : j) + "." + last;
  }
  const auto [i, rest] = numbered(name);
  if (i < 0 || layout_.reads_tokens) return name;
  const auto [j, last] = numbered(rest);
  if (j == layout_.num_layers) return "lm_head." + std::to_string(i) + "." + last;
  return "mlp." + name;
}

void DraftHeads::translate_state(StateDict& state, const std::string& prefix,
                                 std::vector<std::string>& renamed) const {
  std::vector<std::string> names;
  bool interleaved = false;
  for (const auto& [name, t] : state) {
    if (!begins(name, prefix)) continue;
    names.push_back(name.substr(prefix.size()));
    interleaved = interleaved || begins(names.back(), "hydra_lm_head.0.1.");
  }
  const int64_t own = layout_.reads_tokens ? 2 : 1;
  for (const std::string& name : names) {
    std::string to = own_name(name, interleaved);
    if (layout_.tie_layers && begins(to, "mlp.")) {  // aliases of the one block
      const auto [i, rest] = numbered(to.substr(4));
      if (numbered(rest).first >= own) to.clear();
    }
    if (to == name) continue;
    const Tensor t = state.take(prefix + name);
    renamed.push_back(prefix + name + " -> " + (to.empty() ? "dropped" : prefix + to));
    if (!to.empty()) state.set(prefix + to, t);
  }
}

void HydraHeads::translate_state(StateDict& state, const std::string& prefix,
                                 std::vector<std::string>& renamed) const {
  const std::size_t before = renamed.size();
  DraftHeads::translate_state(state, prefix, renamed);
  const std::string name = prefix + "embed_tokens.weight";
  if (renamed.size() > before && !state.contains(name))  // official files leave it to the base
    state.set(name, table().weight());
}

}  // namespace dropin
