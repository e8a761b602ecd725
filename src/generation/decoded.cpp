// Results and random numbers of the decoders.
#include <cmath>

#include "generation/decoding.h"

namespace dropin::generation {

Finished finished(const Hypothesis& h, double score) {
  const TokenSpan out = h.output();
  return {{out.begin(), out.end()}, score, h.met()};
}

void Pool::add(Finished f) {
  auto after = kept_.begin();
  while (after != kept_.end() &&
         (after->met != f.met ? after->met > f.met : after->score >= f.score))
    ++after;
  kept_.insert(after, std::move(f));
  if (static_cast<int64_t>(kept_.size()) > size_) kept_.pop_back();
}

Decoded decoded(const Limits& l, const std::vector<std::vector<Finished>>& results, bool met,
                const Device& device) {
  const auto batch = static_cast<int64_t>(results.size());
  const int64_t n = batch * l.returns;
  Tensor tokens = full({n, l.max_new}, -1, kInt64), lengths = zeros({n}, kInt64);
  Tensor scores = full({n}, kBanned), satisfied = full({n}, -1, kInt64);
  for (int64_t b = 0; b < batch; ++b) {
    const auto& rows = results[at(b)];
    for (int64_t r = 0; r < std::min(l.returns, static_cast<int64_t>(rows.size())); ++r) {
      const Finished& f = rows[at(r)];
      const int64_t i = b * l.returns + r;
      std::copy(f.tokens.begin(), f.tokens.end(), tokens.data<int64_t>() + i * l.max_new);
      lengths.data<int64_t>()[i] = static_cast<int64_t>(f.tokens.size());
      scores.data<float>()[i] = static_cast<float>(f.score);
      satisfied.data<int64_t>()[i] = f.met;
    }
  }
  const Shape rows = l.returns > 1 ? Shape{batch, l.returns} : Shape{batch};
  Shape wide = rows;
  wide.push_back(l.max_new);
  Decoded d{tokens.reshape(wide).to(device), lengths.reshape(rows).to(device),
            scores.reshape(rows).to(device)};
  if (met) d.satisfied = satisfied.reshape(rows).to(device);
  return d;
}

std::vector<std::vector<Finished>> one_by_one(const Limits& l, LanguageModel& model,
                                              const Prompts& prompts, const ChooseTokens& choose) {
  std::vector<Hypothesis> all;
  for (const auto& p : prompts)
    for (int64_t r = 0; r < l.returns; ++r) {
      all.push_back(start_of(p, static_cast<int64_t>(all.size()) / l.returns));
      all.back().result = r;
    }
  Rows now(l.who, model, prompts);
  std::vector<Hypothesis*> live;
  for (Hypothesis& h : all) live.push_back(&h);
  for (int64_t t = 1; t <= l.max_new && !live.empty(); ++t) {
    std::vector<std::vector<double>> lp;
    for (const Hypothesis* h : live) lp.push_back(l.masked(*h, now[h->row]));
    const std::vector<int64_t> chosen = choose(now, live, lp);
    std::vector<Hypothesis*> next;
    std::vector<int64_t> from, tokens;
    for (std::size_t i = 0; i < live.size(); ++i) {
      if (chosen[i] < 0) continue;
      live[i]->sum += lp[i][at(chosen[i])];
      live[i]->append(chosen[i]);
      if (l.is_end(chosen[i])) continue;
      from.push_back(live[i]->row);
      tokens.push_back(chosen[i]);
      live[i]->row = static_cast<int64_t>(next.size());
      next.push_back(live[i]);
    }
    live = next;
    if (t < l.max_new && !live.empty()) now.advance(from, tokens);
  }
  std::vector<std::vector<Finished>> results(prompts.size());
  for (const Hypothesis& h : all) results[at(h.example)].push_back(finished(h, h.sum));
  return results;
}

// --- random numbers

namespace {
std::uint64_t mixed(std::uint64_t x) {  // the finalizer of splitmix64
  x += 0x9e3779b97f4a7c15U;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}
}  // namespace

Uniforms::Uniforms(Generator* generator) {
  Generator& g = generator ? *generator : default_generator();
  seed_ = mixed(mixed(g.seed()) ^ g.advance(1));
}

Uniforms::Uniforms(const Limits& l, const DecodeArgs& args, int64_t batch, int64_t places) {
  const Tensor& t = args.uniforms;
  if (!t.defined()) {
    *this = Uniforms(args.generator);
    return;
  }
  const bool several = l.returns > 1;
  DROPIN_CHECK(is_floating(t.dtype()), DTypeError, l.who, ": uniforms are ", t.dtype(),
               ", expected floats");
  DROPIN_CHECK(t.dim() == (several ? 3 : 2) && t.size(0) == batch &&
                   (!several || t.size(1) == l.returns) && t.size(-1) >= places,
               ShapeError, l.who, ": uniforms are ", t.sizes(), ", expected [", batch,
               several ? ", num_return" : "", ", at least ", places, "]");
  given_ = t.to_vector();
  returns_ = l.returns;
  width_ = t.size(-1);
  for (const double u : given_)
    DROPIN_CHECK(u >= 0 && u < 1, OptionError, l.who, ": uniforms hold ", u,
                 ", expected numbers in [0, 1)");
}

double Uniforms::operator()(int64_t example, int64_t result, int64_t place) const {
  if (given_.empty()) return of({example, result, place});
  return given_[at((example * returns_ + result) * width_ + std::min(place, width_ - 1))];
}

double Uniforms::of(std::initializer_list<int64_t> key) const {
  std::uint64_t x = seed_;
  for (const int64_t k : key) x = mixed(x ^ static_cast<std::uint64_t>(k));
  return static_cast<double>(x >> 11) * 0x1.0p-53;
}

}  // namespace dropin::generation
