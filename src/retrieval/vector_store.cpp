#include <algorithm>
#include <unordered_set>

#include "dropin/retrieval/contract.h"
#include "retrieval/stored_rows.h"

namespace dropin {

FamilyInfo VectorIndex::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "queries [Q, E], filter [N] bool (optional) -> ids [Q, k] int64, scores [Q, k]";
  f.options = [](int size) { return json_of({{"dim", size ? 256 : 6}}); };
  f.inputs = [](const Json& o, const SampleSpec& s) -> Sample {
    static constexpr int64_t kQueries[] = {2, 16, 256, 4096};
    const int64_t count = s.batch >= 0 ? s.batch : s.of(kQueries);
    return {{{"queries", s.normal({count, option_or(o, {"dim"}, 6)})}}};
  };
  f.bad_inputs = [](const Json&) -> std::vector<BadInput> {
    return {{{{"queries", zeros({2, 3, 4})}}}, {{{"queries", zeros({2, 1})}}}};
  };
  f.traits.refuses_nonfinite = true;
  return f;
}

NamedTensors VectorIndex::call(const NamedTensors& in) {
  SearchArgs args;
  args.filter = in.find("filter");
  const Found found = search(in.get("queries", type()), args);
  return {{"ids", found.ids}, {"scores", found.scores}};
}

void VectorIndex::init_store(int64_t dim) {
  DROPIN_CHECK(dim > 0, OptionError, type(), ": dim is ", dim, ", expected a positive number");
  dim_ = dim;
  vectors_ = &buffer("vectors", zeros({0, dim}));
  fields_ = &buffer("fields", Tensor());
  ids_ = &buffer("ids", Tensor());
}

std::vector<int64_t> VectorIndex::ids() const {
  return (ids_->defined() ? *ids_ : arange(0, size()).to(kInt64)).to_vector<int64_t>();
}

std::shared_ptr<const retrieval::StoredRows> VectorIndex::stored_rows(
    const retrieval::StoredAs& as) const {
  const std::lock_guard lock(*mutex_);
  if (!stored_rows_ || !stored_rows_->is_of(*vectors_, *ids_))
    stored_rows_ = std::make_shared<retrieval::StoredRows>(*vectors_, *ids_, as);
  return stored_rows_;
}

int64_t VectorIndex::row_of(int64_t id) const {
  const std::vector<int64_t> all = ids();
  const auto at = std::find(all.begin(), all.end(), id);
  DROPIN_CHECK(at != all.end(), IndexError, type(), ": no document ", id, ", expected one of ",
               size(), " stored ids");
  return at - all.begin();
}

namespace {
void check_finite(std::string_view who, const char* what, const Tensor& t) {
  DROPIN_CHECK(t.numel() == 0 || all(isfinite(t.detach())).item<bool>(), Error, who, ": ", what,
               " hold NaN or infinity, expected finite numbers");
}
}  // namespace

void VectorIndex::add(const Tensor& vectors, const Tensor& ids, const Tensor& fields) {
  DROPIN_CHECK(vectors.dim() == 2 && vectors.size(1) == dim_, ShapeError, type(), ": vectors are ",
               vectors.sizes(), ", expected [n, ", dim_, "]");
  DROPIN_CHECK(is_floating(vectors.dtype()), DTypeError, type(), ": vectors are ", vectors.dtype(),
               ", expected a floating-point tensor");
  const int64_t n = vectors.size(0);
  DROPIN_CHECK(!ids.defined() || (ids.dtype() == kInt64 && ids.sizes() == Shape{n}), ShapeError,
               type(), ": ids are expected int64 [", n, "]");
  DROPIN_CHECK(size() == 0 || fields.defined() == fields_->defined(), ShapeError, type(),
               ": fields are ", fields.defined(), ", expected them for all documents or none");
  DROPIN_CHECK(!fields.defined() || (fields.dim() == 2 && fields.size(0) == n &&
                                     (size() == 0 || fields.size(1) == fields_->size(1))),
               ShapeError, type(), ": fields are ", fields.defined() ? fields.sizes() : Shape{},
               ", expected [", n, ", F] as those before");
  check_finite(type(), "vectors", vectors);
  std::vector<int64_t> all = this->ids();
  const bool counted = !ids.defined() && !ids_->defined();
  std::unordered_set<int64_t> known(all.begin(), all.end());
  int64_t next = all.empty() ? 0 : *std::max_element(all.begin(), all.end()) + 1;
  std::vector<int64_t> fresh = ids.defined() ? ids.to_vector<int64_t>() : std::vector<int64_t>();
  while (static_cast<int64_t>(fresh.size()) < n) fresh.push_back(next++);
  for (const int64_t id : fresh) {
    DROPIN_CHECK(id >= 0, IndexError, type(), ": id ", id, ", expected 0 or more");
    DROPIN_CHECK(known.insert(id).second, Error, type(), ": document ", id,
                 " is there already, expected a new id; update() replaces one");
    all.push_back(id);
  }
  no_grad guard;
  *vectors_ = concat({*vectors_, vectors.to(vectors_->dtype()).to(vectors_->device())});
  if (fields.defined()) {
    const Tensor f = fields.to(vectors_->dtype()).to(vectors_->device());
    *fields_ = fields_->defined() && fields_->size(0) ? concat({*fields_, f}) : f.clone();
  }
  if (!counted) *ids_ = tensor(all).to(vectors_->device());
}

void VectorIndex::remove(const std::vector<int64_t>& ids) {
  for (const int64_t id : ids) row_of(id);
  const std::unordered_set<int64_t> gone(ids.begin(), ids.end());
  std::vector<int64_t> rows, left;
  const std::vector<int64_t> all = this->ids();
  for (std::size_t i = 0; i < all.size(); ++i)
    if (!gone.count(all[i])) {
      rows.push_back(static_cast<int64_t>(i));
      left.push_back(all[i]);
    }
  no_grad guard;
  const Tensor index = tensor(rows).to(vectors_->device());
  *vectors_ = index_select(*vectors_, 0, index);
  if (fields_->defined()) *fields_ = index_select(*fields_, 0, index);
  *ids_ = tensor(left).to(vectors_->device());
}

void VectorIndex::update(const std::vector<int64_t>& ids, const Tensor& vectors) {
  const Shape want{static_cast<int64_t>(ids.size()), dim_};
  DROPIN_CHECK(vectors.sizes() == want, ShapeError, type(), ": vectors are ", vectors.sizes(),
               ", expected ", want);
  check_finite(type(), "vectors", vectors);
  std::vector<int64_t> rows;
  for (const int64_t id : ids) rows.push_back(row_of(id));
  no_grad guard;
  for (std::size_t i = 0; i < rows.size(); ++i)
    vectors_->select(0, rows[i]).copy_(vectors.select(0, static_cast<int64_t>(i)));
}

void VectorIndex::check_queries(const Tensor& queries, const SearchArgs& args) const {
  DROPIN_CHECK(queries.dim() == 2 && queries.size(1) == dim_, ShapeError, type(), ": queries are ",
               queries.sizes(), ", expected [Q, ", dim_, "] because dim = ", dim_);
  DROPIN_CHECK(is_floating(queries.dtype()), DTypeError, type(), ": queries are ", queries.dtype(),
               ", expected a floating-point tensor");
  check_finite(type(), "queries", queries);
  DROPIN_CHECK(args.k >= 0, OptionError, type(), ": k is ", args.k, ", expected 1 or more");
  if (!args.filter.defined()) return;
  DROPIN_CHECK(args.filter.dtype() == kBool, DTypeError, type(), ": filter is ",
               args.filter.dtype(), ", expected bool");
  DROPIN_CHECK(args.filter.sizes() == Shape{size()}, ShapeError, type(), ": filter is ",
               args.filter.sizes(), ", expected [", size(), "], one for each document");
}

void VectorIndex::translate_state(StateDict& state, const std::string& prefix,
                                  std::vector<std::string>&) const {
  const Tensor v = state.find(prefix + "vectors"), f = state.find(prefix + "fields"),
               i = state.find(prefix + "ids");
  if (!v.defined()) return;
  const int64_t n = v.dim() == 2 ? v.size(0) : -1;
  DROPIN_CHECK(v.dim() == 2 && v.size(1) == dim_, StateError, type(), ": ", prefix, "vectors are ",
               v.sizes(), ", expected [N, ", dim_, "]");
  DROPIN_CHECK(!f.defined() || (f.dim() == 2 && f.size(0) == n), StateError, type(), ": ", prefix,
               "fields are ", f.defined() ? f.sizes() : Shape{}, ", expected [", n, ", F]");
  DROPIN_CHECK(!i.defined() || i.sizes() == Shape{n}, StateError, type(), ": ", prefix, "ids are ",
               i.defined() ? i.sizes() : Shape{}, ", expected [", n, "]");
  check_finite(type(), "vectors", v);
  detail::fit_buffer(*vectors_, v);
  *fields_ = f.defined() ? zeros(f.sizes(), vectors_->options()) : Tensor();
  *ids_ = i.defined() ? zeros(i.sizes(), {kInt64, vectors_->device()}) : Tensor();
}

}  // namespace dropin
