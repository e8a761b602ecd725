#include "evidence/claims/character_model.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "dropin/data/tasks.h"
#include "dropin/embedding/embedding.h"
#include "dropin/projection/linear.h"

namespace dropin::evidence {
namespace {

constexpr int64_t kContext = 16, kWidth = 256, kBatch = 128;
Tensor call(const Box<Module>& m, const Tensor& x) {
  return m->call({{"x", x}}).get("y", m->type());
}

}  // namespace

CharacterData::CharacterData(const ClaimData& data) {
  std::string text;
  if (data.text.empty()) {
    text = grammar_text(1'115'394);
    name_ = "sentences of a generated grammar";
  } else {
    std::ifstream f(data.text, std::ios::binary);
    std::ostringstream s;
    s << f.rdbuf();
    text = s.str();
    name_ = data.text;
    if (text.size() < 2000)
      fail<FileError>(
          {"claims: ", data.text, " cannot be read, or has fewer than 2000 characters"});
  }
  int64_t id[256];
  std::fill(id, id + 256, -1);
  for (char ch : text) {
    int64_t& i = id[static_cast<unsigned char>(ch)];
    if (i < 0) i = vocabulary_++;
    ids_.push_back(i);
  }
  const auto n = static_cast<int64_t>(ids_.size());
  train_ = n > 1'050'000 ? 1'000'000 : n * 9 / 10;
  std::vector<int64_t> starts;
  for (int64_t i = train_; i + kContext < n; i += 5) starts.push_back(i);
  validation_ = at(starts);
}

CharacterData::Examples CharacterData::at(const std::vector<int64_t>& starts) const {
  const auto n = static_cast<int64_t>(starts.size());
  Examples e{empty({n, kContext}, kInt64), empty({n}, kInt64)};
  for (int64_t i = 0; i < n; ++i) {
    const int64_t s = starts[static_cast<std::size_t>(i)];
    std::copy_n(ids_.begin() + s, kContext, e.context.data<int64_t>() + i * kContext);
    e.next.data<int64_t>()[i] = ids_[static_cast<std::size_t>(s + kContext)];
  }
  return e;
}
CharacterData::Examples CharacterData::batch(Generator& g) const {
  const Tensor r = randint(0, train_ - kContext - 1, {kBatch}, kInt64, &g);
  const int64_t* p = r.data<int64_t>();
  return at({p, p + kBatch});
}

CharacterModel::CharacterModel(const CharacterData& data, const CharacterModelOptions& o)
    : data_(data), o_(o) {
  manual_seed(o.seed);
  auto hidden = [&]() -> Box<Module> {
    return o.hidden ? o.hidden()
                    : Box<Module>(new Linear({.in_features = kWidth, .out_features = kWidth}));
  };
  embedding_ = Box<Module>(
      new Embedding({.num_embeddings = data.vocabulary(), .embedding_dim = kWidth / kContext}));
  first_ = hidden();
  second_ = hidden();
  out_ = Box<Module>(new Linear({.in_features = kWidth, .out_features = data.vocabulary()}));
}

Tensors CharacterModel::parameters() const {
  Tensors all;
  for (const Box<Module>* m : {&embedding_, &first_, &second_, &out_})
    for (const Tensor& p : (*m)->parameters()) all.push_back(p);
  return all;
}

Tensor CharacterModel::forward(const Tensor& context) const {
  auto act = [&](const Tensor& x) { return o_.activation ? o_.activation(x) : relu(x); };
  Tensor h = call(embedding_, context).reshape({context.size(0), kWidth});
  for (const Box<Module>* m : {&first_, &second_})
    h = act(call(*m, o_.normalize ? layer_norm(h, {kWidth}) : h));
  return call(out_, h);
}

void CharacterModel::train_with(const std::function<void()>& zero_grad,
                                const std::function<void()>& step) {
  Generator g(o_.seed + 100);
  for (int64_t i = 0; i < o_.steps; ++i) {
    const CharacterData::Examples b = data_.batch(g);
    zero_grad();
    cross_entropy(forward(b.context), b.next).backward();
    step();
  }
}
double CharacterModel::train() {
  const Tensors all = parameters();
  const Box<Optimizer> optimizer =
      o_.optimizer ? o_.optimizer(all) : Box<Optimizer>(new Adam(all, {.lr = 1e-3}));
  train_with([&] { optimizer->zero_grad(); }, [&] { optimizer->step(); });
  return validation_loss();
}

double CharacterModel::validation_loss() const {
  no_grad guard;
  const auto& v = data_.validation();
  return cross_entropy(forward(v.context), v.next).item();
}

void CharacterModel::replace_hidden(const std::function<Box<Module>()>& make, bool normalize) {
  for (Box<Module>* m : {&first_, &second_}) {
    Box<Module> fresh = make();
    fresh->load_state_dict((*m)->state_dict());
    *m = std::move(fresh);
  }
  o_.normalize = normalize;
}

}  // namespace dropin::evidence
