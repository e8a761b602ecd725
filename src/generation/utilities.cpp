#include "generation/utilities.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/hd.h"

namespace dropin::generation {

namespace {

// "rouge3": 3; 0 for what is not rouge1 to rouge9.
int64_t rouge_order(const std::string& name) {
  if (name.size() != 6 || name.compare(0, 5, "rouge") != 0) return 0;
  return name[5] >= '1' && name[5] <= '9' ? name[5] - '0' : 0;
}

double ratio(double a, double b) { return b > 0 ? a / b : 0; }

// Common members of two sorted lists, each as often as in both.
double common_of(const Ids& a, const Ids& b) {
  double n = 0;
  for (std::size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    if (a[i] == b[j]) n += 1;
    const bool left = a[i] <= b[j], right = b[j] <= a[i];
    i += left;
    j += right;
  }
  return n;
}

// Length of the longest common subsequence, 64 cells of a row at a time (Hyyro 2004).
double longest_common(const Ids& a, const Ids& b) {
  const std::size_t words = (a.size() + 63) / 64;
  std::map<int64_t, std::vector<std::uint64_t>> where;
  for (std::size_t i = 0; i < a.size(); ++i) {
    auto& mask = where[a[i]];
    mask.resize(words);
    mask[i / 64] |= std::uint64_t{1} << (i % 64);
  }
  std::vector<std::uint64_t> v(words, ~std::uint64_t{0});
  for (const int64_t id : b) {
    const auto mask = where.find(id);
    if (mask == where.end()) continue;
    std::uint64_t carry = 0;
    for (std::size_t w = 0; w < words; ++w) {
      const std::uint64_t u = v[w] & mask->second[w], sum = v[w] + u, all = sum + carry;
      carry = sum < u || all < sum;
      v[w] = all | (v[w] - u);
    }
  }
  double n = 0;
  for (std::size_t i = 0; i < a.size(); ++i) n += !(v[i / 64] >> (i % 64) & 1);
  return n;
}

double levenshtein(const Ids& a, const Ids& b) {
  std::vector<int64_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (std::size_t i = 0; i < a.size(); ++i) {
    int64_t corner = row[0]++;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const int64_t change = corner + (a[i] != b[j]);
      corner = row[j + 1];
      row[j + 1] = std::min({change, corner + 1, row[j] + 1});
    }
  }
  return static_cast<double>(row.back());
}

}  // namespace

std::vector<Ids> read_sequences(std::string_view who, const std::string& name, const Tensor& ids,
                                const Tensor& lengths, const Ids& ignore) {
  DROPIN_CHECK(ids.dtype() == kInt64 && lengths.dtype() == kInt64, DTypeError, who, ": ", name,
               " is ", ids.dtype(), " with lengths ", lengths.dtype(), ", expected int64");
  DROPIN_CHECK(ids.dim() == 2 && ids.size(0) > 0 && lengths.sizes() == Shape{ids.size(0)},
               ShapeError, who, ": ", name, " is ", ids.sizes(), " with lengths ", lengths.sizes(),
               ", expected [N, L] and [N], N at least 1");
  const Ids all = ids.to_vector<int64_t>(), count = lengths.to_vector<int64_t>();
  const int64_t width = ids.size(1);
  std::vector<Ids> r;
  for (int64_t i = 0; i < ids.size(0); ++i) {
    DROPIN_CHECK(count[at(i)] >= 0 && count[at(i)] <= width, IndexError, who, ": the length of ",
                 name, " ", i, " is ", count[at(i)], ", expected 0 to ", width);
    Ids& row = r.emplace_back();
    for (int64_t k = 0; k < count[at(i)]; ++k) {
      const int64_t id = all[at(i * width + k)];
      if (std::find(ignore.begin(), ignore.end(), id) == ignore.end()) row.push_back(id);
    }
  }
  return r;
}

bool is_token_utility(const std::string& name) {
  for (const char* n : {"exact_match", "rougeL", "lcs", "edit", "bleu", "chrf"})
    if (name == n) return true;
  return rouge_order(name) > 0;
}

void check_utility(std::string_view who, const std::string& name, const MbrDecodeOptions& o) {
  DROPIN_CHECK(
      is_token_utility(name) || name == "cosine" || name == "bertscore" || name == "matrix",
      OptionError, who, ": utility is \"", name,
      "\", expected exact_match, rouge1 to rouge9, rougeL, lcs, edit, bleu, chrf, cosine, "
      "bertscore or matrix");
  DROPIN_CHECK(o.score == "f1" || o.score == "precision" || o.score == "recall", OptionError, who,
               ": score is \"", o.score, "\", expected f1, precision or recall");
  DROPIN_CHECK(o.smoothing == "exp" || o.smoothing == "floor" || o.smoothing == "add-k" ||
                   o.smoothing == "none",
               OptionError, who, ": smoothing is \"", o.smoothing,
               "\", expected exp, floor, add-k or none");
  DROPIN_CHECK(o.max_order >= 1 && o.char_order >= 1, OptionError, who, ": max_order is ",
               o.max_order, " and char_order ", o.char_order, ", expected at least 1");
  DROPIN_CHECK(o.beta > 0 && std::isfinite(o.beta), OptionError, who, ": beta is ", o.beta,
               ", expected a positive number");
  DROPIN_CHECK(
      !o.smooth_value || *o.smooth_value > 0 || (o.smoothing != "floor" && o.smoothing != "add-k"),
      OptionError, who, ": smooth_value is ", o.smooth_value.value_or(0),
      ", expected a positive number");
}

TokenUtility::TokenUtility(std::string name, const MbrDecodeOptions& o, std::vector<Ids> hypotheses,
                           std::vector<Ids> references)
    : name_(std::move(name)), o_(o) {
  orders_ = name_ == "bleu"   ? o.max_order
            : name_ == "chrf" ? o.char_order
                              : std::max<int64_t>(1, rouge_order(name_));
  std::size_t longest = 1;  // no order beyond has a member
  for (const auto* side : {&hypotheses, &references})
    for (const Ids& s : *side) longest = std::max(longest, s.size());
  longer_.resize(std::min(at(orders_), longest) - 1);
  for (const Ids& s : hypotheses) h_.push_back(intern(s));
  for (const Ids& s : references) r_.push_back(intern(s));
}

TokenUtility::Sequence TokenUtility::intern(const Ids& ids) {
  Sequence s;
  auto number = [](auto& known, const auto& key) {
    return known.emplace(key, static_cast<int64_t>(known.size())).first->second;
  };
  for (const int64_t id : ids) s.ids.push_back(number(tokens_, id));
  Ids grams = s.ids;
  s.grams.push_back(grams);
  for (std::size_t n = 1; n <= longer_.size(); ++n) {  // an n-gram is its start and its last id
    grams.resize(s.ids.size() >= n ? s.ids.size() - n : 0);
    for (std::size_t i = 0; i < grams.size(); ++i)
      grams[i] = number(longer_[n - 1], std::pair{grams[i], s.ids[i + n]});
    s.grams.push_back(grams);
  }
  for (Ids& g : s.grams) std::sort(g.begin(), g.end());
  return s;
}

double TokenUtility::rouge(double common, double h, double r) const {
  const double p = ratio(common, h), c = ratio(common, r);
  return o_.score == "precision" ? p : o_.score == "recall" ? c : ratio(2 * p * c, p + c);
}

double TokenUtility::bleu(Counts common, Counts h, double h_length, double r_length) const {
  if (std::all_of(common.begin(), common.end(), [](double c) { return c <= 0; })) return 0;
  const double k = o_.smooth_value.value_or(o_.smoothing == "floor" ? 0.1 : 1.0);
  double sum = 0, z = 1;
  int64_t used = 0;
  for (int64_t n = 1; n <= o_.max_order; ++n) {
    double c = at(n) <= common.size() ? common[at(n - 1)] : 0;
    double t = at(n) <= h.size() ? h[at(n - 1)] : 0;
    if (o_.smoothing == "add-k" && n > 1) {
      c += k;
      t += k;
    }
    if (t <= 0) break;
    used = n;
    double p = c / t;
    if (c <= 0 && o_.smoothing == "exp") p = 1 / ((z *= 2) * t);
    if (c <= 0 && o_.smoothing == "floor") p = k / t;
    if (p <= 0) return 0;
    sum += std::log(p);
  }
  if (!o_.effective_order && used < o_.max_order) return 0;
  const double brevity = h_length >= r_length ? 1 : std::exp(1 - r_length / h_length);
  return brevity * std::exp(sum / static_cast<double>(used));
}

double TokenUtility::chrf(const Counts& common, const Counts& h, const Counts& r) const {
  double precision = 0, recall = 0, orders = 0;
  for (std::size_t n = 0; n < h.size(); ++n) {
    if (h[n] <= 0 || r[n] <= 0) continue;
    precision += common[n] / h[n];
    recall += common[n] / r[n];
    orders += 1;
  }
  if (orders == 0) return 0;
  precision /= orders;
  recall /= orders;
  const double b = o_.beta * o_.beta;
  return ratio((1 + b) * precision * recall, b * precision + recall);
}

double TokenUtility::of_counts(const Sequence& h, const Counts& common, const Counts& r,
                               double r_length) const {
  Counts own;
  for (const Ids& g : h.grams) own.push_back(static_cast<double>(g.size()));
  if (name_ == "bleu") return bleu(common, own, static_cast<double>(h.ids.size()), r_length);
  if (name_ == "chrf") return chrf(common, own, r);
  const std::size_t n = at(orders_ - 1);
  return n < common.size() ? rouge(common[n], own[n], r[n]) : 0;
}

// rougeL, lcs and edit are these functions of a number of common ids.
double TokenUtility::of_common(double common, const Sequence& h, const Sequence& r) const {
  const auto a = static_cast<double>(h.ids.size()), b = static_cast<double>(r.ids.size());
  if (name_ == "rougeL") return rouge(common, a, b);
  return std::max(a, b) > 0 ? common / std::max(a, b) : 1;
}

double TokenUtility::operator()(int64_t i, int64_t j) const {
  const Sequence &h = h_[at(i)], &r = r_[at(j)];
  if (name_ == "exact_match") return h.ids == r.ids;
  if (name_ == "rougeL" || name_ == "lcs") return of_common(longest_common(h.ids, r.ids), h, r);
  if (name_ == "edit") {
    const auto longer = static_cast<double>(std::max(h.ids.size(), r.ids.size()));
    return of_common(longer - levenshtein(h.ids, r.ids), h, r);
  }
  Counts common, size;
  for (std::size_t n = 0; n < h.grams.size(); ++n) {
    common.push_back(common_of(h.grams[n], r.grams[n]));
    size.push_back(static_cast<double>(r.grams[n].size()));
  }
  return of_counts(h, common, size, static_cast<double>(r.ids.size()));
}

double TokenUtility::bound(int64_t i, int64_t j) const {
  const Sequence &h = h_[at(i)], &r = r_[at(j)];
  return of_common(common_of(h.grams[0], r.grams[0]), h, r);
}

TokenUtility::Expected TokenUtility::expected(const double* p) const {
  Expected e;
  e.counts.resize(longer_.size() + 1);
  e.sizes.resize(longer_.size() + 1);
  for (std::size_t j = 0; j < r_.size(); ++j) {
    if (p[j] == 0) continue;
    e.length += p[j] * static_cast<double>(r_[j].ids.size());
    for (std::size_t n = 0; n < e.counts.size(); ++n)
      for (const int64_t g : r_[j].grams[n]) {
        e.counts[n][g] += p[j];
        e.sizes[n] += p[j];
      }
  }
  return e;
}

double TokenUtility::operator()(int64_t i, const Expected& e) const {
  const Sequence& h = h_[at(i)];
  Counts common;
  for (std::size_t n = 0; n < h.grams.size(); ++n) {
    std::map<int64_t, double> own;
    double shared = 0;
    for (const int64_t g : h.grams[n]) own[g] += 1;
    for (const auto& [g, count] : own)
      if (const auto other = e.counts[n].find(g); other != e.counts[n].end())
        shared += std::min(count, other->second);
    common.push_back(shared);
  }
  return of_counts(h, common, e.sizes, e.length);
}

}  // namespace dropin::generation
