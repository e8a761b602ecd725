#include "dropin/text/corruption.h"

#include <algorithm>

#include "kernels/hd.h"
#include "text/spans.h"

namespace dropin {

namespace {

constexpr const char* kCorruptIds = "newline_corruption";
constexpr const char* kCorruptText = "corrupt_sentences";

void check_probability(const char* who, const char* name, double p) {
  DROPIN_CHECK(p >= 0 && p <= 1, OptionError, who, ": ", name, " is ", p, ", expected 0 to 1");
}

// Numbers that are taken one after the other.
class Draws {
 public:
  Draws(const char* who, const Tensor& uniforms) : who_(who) {
    if (!uniforms.defined()) return;
    DROPIN_CHECK(is_floating(uniforms.dtype()), DTypeError, who, ": uniforms are ",
                 uniforms.dtype(), ", expected floats");
    DROPIN_CHECK(uniforms.dim() == 1, ShapeError, who, ": uniforms is ", uniforms.sizes(),
                 ", expected [n]");
    all_ = uniforms.to_vector();
    for (const double u : all_)
      DROPIN_CHECK(u >= 0 && u <= 1, OptionError, who, ": a number of uniforms is ", u,
                   ", expected 0 to 1");
  }
  bool below(double p) {
    DROPIN_CHECK(next_ < all_.size(), ShapeError, who_, ": there are ",
                 static_cast<int64_t>(all_.size()), " uniforms, expected more");
    return all_[next_++] < p;
  }

 private:
  const char* who_;
  std::vector<double> all_;
  std::size_t next_ = 0;
};

// The class of what stands at `id`: 0 none, 1 a newline, 2 + k mark k.
int64_t class_of(int64_t id, const NewlineCorruptionOptions& o) {
  if (id == o.newline_id) return 1;
  const auto mark = std::find(o.punctuation_ids.begin(), o.punctuation_ids.end(), id);
  return mark == o.punctuation_ids.end() ? 0 : 2 + (mark - o.punctuation_ids.begin());
}

bool holds(const std::vector<int64_t>& list, int64_t c) {
  return std::find(list.begin(), list.end(), c) != list.end();
}

// One sentence without marks, case and repeated white space, as far as `o` and chance want.
text::Points corrupted(const text::Points& line, Draws& draws, const CorruptSentencesOptions& o) {
  const bool chance = o.scheme == "social_media", no_marks = !chance || draws.below(0.5),
             lower = !chance || draws.below(0.5);
  std::vector<int64_t> repeats(o.punctuation.size(), 1);
  for (int64_t& n : repeats)
    if (chance)
      for (n = 0; draws.below(0.5);) ++n;
  text::Points marked;
  for (const int64_t c : line) {
    const auto mark = std::find(o.punctuation.begin(), o.punctuation.end(), c);
    if (mark == o.punctuation.end())
      marked.push_back(lower ? text::lowered(c) : c);
    else if (!no_marks)
      marked.insert(marked.end(), at(repeats[at(mark - o.punctuation.begin())]), c);
  }
  text::Points r;
  bool leading = true, space = false;
  for (const int64_t c : marked) {
    constexpr int64_t kRightToLeft = 0x200F;
    if (c == kRightToLeft || (leading && c == '-')) continue;
    leading = false;
    if (text::is_space(c)) {
      space = !r.empty();
      continue;
    }
    if (space) r.push_back(' ');
    space = false;
    r.push_back(c);
  }
  return r;
}

}  // namespace

CorruptedIds newline_corruption(const Tensor& ids, const Tensor& uniforms,
                                const NewlineCorruptionOptions& o) {
  DROPIN_CHECK(o.newline_id >= 0, OptionError, kCorruptIds, ": newline_id is ", o.newline_id,
               ", expected an id, which is required");
  DROPIN_CHECK(!holds(o.punctuation_ids, o.newline_id), OptionError, kCorruptIds,
               ": punctuation_ids hold newline_id ", o.newline_id, ", expected other ids");
  check_probability(kCorruptIds, "newline_remove_prob", o.newline_remove_prob);
  check_probability(kCorruptIds, "punctuation_remove_prob", o.punctuation_remove_prob);
  DROPIN_CHECK(ids.dtype() == kInt64, DTypeError, kCorruptIds, ": ids are ", ids.dtype(),
               ", expected int64");
  DROPIN_CHECK(ids.dim() == 1, ShapeError, kCorruptIds, ": ids is ", ids.sizes(), ", expected [N]");
  Draws draws(kCorruptIds, uniforms);
  const std::vector<int64_t> all = ids.to_vector<int64_t>();
  auto label = [&](std::size_t i) { return i + 1 < all.size() ? class_of(all[i + 1], o) : 0; };
  std::vector<int64_t> kept, labels;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const int64_t follows = label(i);
    kept.push_back(all[i]);
    labels.push_back(follows);
    if (follows == 0) continue;
    const bool newline = follows == 1, stays = o.keep_before_newline && label(i + 1) == 1;
    const bool drawn = draws.below(newline ? o.newline_remove_prob : o.punctuation_remove_prob);
    if (drawn && (newline || !stays)) ++i;
  }
  return {tensor(kept), tensor(labels)};
}

CorruptedText corrupt_sentences(const Tensor& text, const Tensor& uniforms,
                                const CorruptSentencesOptions& o) {
  DROPIN_CHECK(o.scheme == "asr" || o.scheme == "social_media", OptionError, kCorruptText,
               ": scheme is \"", o.scheme, "\", expected asr or social_media");
  check_probability(kCorruptText, "glue_prob", o.glue_prob);
  for (const auto& [name, list] :
       {std::pair{"punctuation", &o.punctuation}, {"separator", &o.separator}})
    for (const int64_t c : *list)
      DROPIN_CHECK(text::is_code_point(c), OptionError, kCorruptText, ": ", name, " holds ", c,
                   ", expected code points that are no surrogates");
  const bool chance = o.scheme == "social_media";
  const text::Points points = text::read_text(kCorruptText, text);
  Draws draws(kCorruptText, uniforms);
  text::Points out;
  std::vector<bool> ends;
  for (auto from = points.begin();; ++from) {
    const auto to = std::find(from, points.end(), '\n');
    const text::Points sentence = corrupted({from, to}, draws, o);
    from = to;
    if (!sentence.empty()) {
      if (!out.empty()) {
        const bool glued = chance && draws.below(o.glue_prob) && holds(o.punctuation, out.back());
        const bool spaced = o.separator == std::vector<int64_t>{' '};
        if (!glued)
          out.insert(out.end(), o.separator.begin(), o.separator.end());
        else if (!spaced)
          out.push_back(' ');
        ends.resize(out.size(), false);
      }
      out.insert(out.end(), sentence.begin(), sentence.end());
      ends.resize(out.size(), false);
      ends.back() = true;
    }
    if (to == points.end()) break;
  }
  std::vector<int64_t> labels(ends.begin(), ends.end());
  return {tensor(out), tensor(labels).to(kBool)};
}

}  // namespace dropin
