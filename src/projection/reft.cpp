#include "dropin/projection/reft.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "dropin/module/state_names.h"

namespace dropin {

std::vector<std::string> LoReFT::examples() {
  return {R"({"act_fn": "gelu", "parametrization": "none"})",
          R"({"variant": "noreft", "add_bias": true})", R"({"variant": "consreft"})",
          R"({"variant": "lobireft"})", R"({"identity_init": true})"};
}
std::vector<std::string> DiReFT::examples() {
  return {R"({"act_fn": "tanh", "parametrization": "none"})", R"({"variant": "noreft"})"};
}

namespace {

// Orthonormal columns of a [d, k], with a positive diagonal of R.
Tensor orthonormal(const Tensor& a) {
  const QR f = qr(a.detach().to(kFloat64));
  const Tensor signs = where(f.R.diagonal() < 0.0, full({1}, -1.0, kFloat64), 1.0);
  return (f.Q * signs).to(a.dtype());
}

// An orthogonal [d, d] that begins with the orthonormal columns of q [d, r].
Tensor completed(const Tensor& q) {
  const int64_t d = q.size(0);
  const Tensor more = concat({q.detach().to(kFloat64), randn({d, d - q.size(1)}, kFloat64)}, 1);
  return orthonormal(more).to(q.dtype());
}

// X with -1 on the diagonal: no reflection turns anything.
Tensor unturned(int64_t d, int64_t r) { return eye(d, r) * -1.0; }

}  // namespace

void LowRankEdit::create(std::string_view who, const ReFTOptions& o, bool subtracts) {
  const int64_t d = o.embed_dim, r = o.low_rank_dimension;
  DROPIN_CHECK(d > 0, OptionError, who, ": embed_dim is ", d, ", expected a positive number");
  DROPIN_CHECK(o.parametrization == "householder" || o.parametrization == "none", OptionError, who,
               ": parametrization is \"", o.parametrization, "\", expected householder or none");
  DROPIN_CHECK(o.variant.empty() || o.variant == "noreft" || o.variant == "consreft" ||
                   o.variant == "lobireft",
               OptionError, who, ": variant is \"", o.variant,
               "\", expected \"\", noreft, consreft or lobireft");
  const bool free = o.variant == "noreft";
  DROPIN_CHECK(r >= 1 && r <= d, OptionError, who, ": low_rank_dimension is ", r,
               ", expected 1 to embed_dim = ", d);
  DROPIN_CHECK(free || o.parametrization == "none" || r < d, OptionError, who,
               ": low_rank_dimension is ", r,
               ", expected less than embed_dim with parametrization householder; use \"none\"");
  DROPIN_CHECK(!o.identity_init || (subtracts && o.variant.empty()), OptionError, who,
               ": identity_init is of LoReFT without a variant");
  detail::check_activation(who, "act_fn", o.act_fn);
  detail::check_dropout(who, o.dropout);
  width_ = d;
  rank_ = r;
  shared_ = o;
  subtracts_ = subtracts;
  const bool constant = o.variant == "consreft" || o.variant == "lobireft";
  Parameters& source = *child<Parameters>("learned_source").as();
  if (!constant) weight_ = &source.add("weight", init::default_uniform({r, d}, d));
  bias_ = &source.add("bias", init::default_uniform({r}, d));
  if (free) {
    proj_ = child<Linear>("proj", {.in_features = d, .out_features = r, .bias = o.add_bias});
    return;
  }
  const Tensor start = orthonormal(randn({d, r}));
  Parameters& rotate = *child<Parameters>("rotate_layer").as();
  if (o.parametrization == "none") {
    rotate_ = &rotate.add("weight", start);
  } else {
    rotate_ = &rotate.add("original", unturned(d, r));
    base_ = &rotate.add_buffer("base", completed(start));
  }
  if (!o.identity_init) return;
  no_grad guard;
  weight_->copy_(rotation().mT());
  bias_->zero_();
}

Tensor LowRankEdit::rotation() const {
  if (proj_) return proj_.as()->weight().mT();
  if (!base_) return *rotate_;
  const Tensor x = *rotate_;
  Tensor columns = eye(width_, rank_, x.options());
  for (int64_t j = rank_ - 1; j >= 0; --j) {
    const Tensor below = x.select(1, j).narrow(0, j + 1, width_ - j - 1),
                 v = concat({zeros({j}, x.options()), ones({1}, x.options()), below}, 0);
    const Tensor scaled = v * (2.0 / sum(square(v)));
    columns = columns - scaled.unsqueeze(1) * matmul(v, columns).unsqueeze(0);
  }
  return matmul(*base_, columns) * sign(x.detach().diagonal());
}

void LowRankEdit::retract() {
  DROPIN_CHECK(rotate_ && !base_, OptionError, type(),
               ": retract() is for parametrization \"none\"");
  no_grad guard;
  rotate_->copy_(orthonormal(*rotate_));
}

Tensor LowRankEdit::edit(const Tensor& h) {
  const Tensor rotated = rotation();
  const bool constant = !weight_;
  Tensor e =
      constant ? *bias_ : detail::activated(type(), shared_.act_fn, linear(h, *weight_, *bias_));
  if (subtracts_ && shared_.variant != "lobireft") {
    Tensor own = matmul(h, rotated);
    if (proj_ && proj_.as()->bias().defined()) own = own + proj_.as()->bias();
    e = e - own;
  }
  const Tensor y = h + matmul(e, rotated.mT());
  return dropout(y, shared_.dropout, is_training());
}

void LowRankEdit::translate_state(StateDict& state, const std::string& prefix,
                                  std::vector<std::string>& renamed) const {
  detail::rename_state(state, prefix + "weight", prefix + "learned_source.weight", renamed);
  detail::rename_state(state, prefix + "bias", prefix + "learned_source.bias", renamed);
  const Tensor theirs = state.take(prefix + "rotate_layer");  // pyreft's file
  if (theirs.defined() && rotate_ && !base_) {
    state.set(prefix + "rotate_layer.weight", theirs);
    renamed.push_back(prefix + "rotate_layer -> " + prefix + "rotate_layer.weight");
  } else if (theirs.defined() && theirs.sizes() == (Shape{width_, rank_})) {
    state.set(prefix + "rotate_layer.original", unturned(width_, rank_));
    state.set(prefix + "rotate_layer.base", completed(theirs));
    renamed.push_back(prefix + "rotate_layer -> " + prefix + "rotate_layer.base, completed");
  }
  const Tensor x = state.find(prefix + "rotate_layer.original");
  if (!base_ || !x.defined() || !(x.sizes() == (Shape{width_, rank_}))) return;
  const Tensor off = abs(abs(x.detach().to(kFloat64).diagonal()) - 1.0);
  DROPIN_CHECK(!any(!(off < 1e-3)).item<bool>(), StateError, type(), ": ", prefix,
               "rotate_layer.original has a diagonal that is not 1 or -1; R would not be "
               "orthonormal");
}

namespace {
// "f3" or "l4": the number; -1 when the text has another form.
int64_t count_of(std::string_view text, char kind) {
  if (text.size() < 2 || text[0] != kind) return -1;
  int64_t n = -1;
  const auto [end, error] = std::from_chars(text.data() + 1, text.data() + text.size(), n);
  return error == std::errc() && end == text.data() + text.size() ? n : -1;
}
}  // namespace

Tensor reft_positions(const Tensor& lengths_in, const std::string& positions) {
  const char* who = "reft_positions";
  const std::string_view text = positions;
  const std::size_t plus = text.find('+');
  int64_t first = 0, last = 0;
  if (plus != std::string_view::npos) {
    first = count_of(text.substr(0, plus), 'f');
    last = count_of(text.substr(plus + 1), 'l');
  } else if (!text.empty() && text[0] == 'l') {
    last = count_of(text, 'l');
  } else {
    first = count_of(text, 'f');
  }
  DROPIN_CHECK(first >= 0 && last >= 0 && first < 1 << 20 && last < 1 << 20, OptionError, who,
               ": positions is \"", positions, "\", expected f<p>+l<s>, f<p> or l<s>");
  DROPIN_CHECK(lengths_in.dtype() == kInt64 || lengths_in.dtype() == kInt32, DTypeError, who,
               ": lengths are ", lengths_in.dtype(), ", expected int64");
  DROPIN_CHECK(lengths_in.dim() == 1, ShapeError, who, ": lengths are ", lengths_in.sizes(),
               ", expected [B]");
  const std::vector<int64_t> lengths = lengths_in.to_vector<int64_t>();
  const auto batch = static_cast<int64_t>(lengths.size());
  Tensor y = full({batch, first + last}, -1, kInt64);
  int64_t* row = y.data<int64_t>();
  for (const int64_t n : lengths) {
    DROPIN_CHECK(n >= 0, IndexError, who, ": lengths hold ", n, ", expected 0 or more");
    int64_t at = 0;
    for (int64_t i = 0; i < std::min(n / 2, first); ++i) row[at++] = i;
    for (int64_t i = n - std::min(n / 2, last); i < n; ++i) row[at++] = i;
    row += first + last;
  }
  return y.to(lengths_in.device());
}

}  // namespace dropin
