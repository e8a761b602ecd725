// VectorSearchIndex against sorting all scores, its interface operations, and merge_embeddings.
#include <algorithm>
#include <set>

#include "dropin/retrieval/vector_index.h"
#include "support.h"

namespace dropin::testing {
namespace {

using Ids = std::vector<int64_t>;
Ids ids_of(const Tensor& t) { return t.to_vector<int64_t>(); }

VectorSearchIndex filled(VectorSearchIndexOptions o, const Tensor& vectors,
                         const Tensor& fields = {}) {
  o.dim = vectors.size(1);
  VectorSearchIndex index(o);
  index.add(vectors, {}, fields);
  return index;
}

TEST(VectorSearchIndex, FindsWhatSortingAllScoresFinds) {
  const Tensor docs = random({40, 5}, kFloat32, 1), queries = random({6, 5}, kFloat32, 2);
  docs.select(0, 31).copy_(docs.select(0, 7));  // an exact tie
  const Tensor fields = random({40, 2}, kFloat32, 3), allowed = random({40}, kFloat32, 4) > -0.5;
  for (const char* metric : {"cosine", "dot", "l2"}) {
    VectorSearchIndexOptions o;
    o.metric = metric;
    o.k = 9;
    o.multiply_fields = {1, 1};
    o.multiply_weights = {0.5, 2};
    o.add_fields = {0};
    o.add_weights = {0.25};
    VectorSearchIndex index = filled(o, docs, fields);
    SearchArgs args;
    args.filter = allowed;
    const Found f = index.search(queries, args);
    for (int64_t q = 0; q < 6; ++q) {
      std::vector<std::pair<double, int64_t>> all;
      for (int64_t i = 0; i < 40; ++i) {
        if (!allowed.to_vector()[static_cast<std::size_t>(i)]) continue;
        const Tensor a = queries.select(0, q).to(kFloat64), d = docs.select(0, i).to(kFloat64);
        double s = sum(a * d).item();
        if (std::string(metric) == "cosine") s /= norm(a).item() * norm(d).item();
        if (std::string(metric) == "l2") s = -sum(square(a - d)).item();
        const double m = fields.select(0, i).select(0, 1).item();
        s = s * (0.5 * m) * (2 * m) + 0.25 * fields.select(0, i).select(0, 0).item();
        all.emplace_back(-s, i);
      }
      std::sort(all.begin(), all.end());
      for (int64_t j = 0; j < 9; ++j) {
        const auto& [score, id] = all[static_cast<std::size_t>(j)];
        EXPECT_EQ(f.ids.select(0, q).select(0, j).item(), static_cast<double>(id)) << metric;
        EXPECT_NEAR(f.scores.select(0, q).select(0, j).item(), -score, 1e-5);
      }
    }
  }
}

TEST(VectorSearchIndex, FillsMissingResultsAndBreaksTiesById) {
  VectorSearchIndex index = filled({.k = 4}, ones({3, 2}));
  const Tensor q = ones({1, 2});
  expect_values(index.search(q).ids, {0, 1, 2, -1});
  expect_values(index.search(q).scores, {1, 1, 1, -INFINITY});
  SearchArgs none;
  none.filter = zeros({3}, kBool);
  expect_values(index.search(q, none).ids, {-1, -1, -1, -1});
  VectorSearchIndex empty({.dim = 2, .k = 2});
  expect_values(empty.search(q).ids, {-1, -1});
  FlatIndex flat({.dim = 2, .k = 2});
  flat.add(tensor(std::vector<double>{0, 0, 1, 0}, {2, 2}));
  expect_values(flat.search(q).scores, {std::sqrt(0.5), 0});  // a zero document scores 0
}

TEST(VectorSearchIndex, DocumentsComeAndGo) {
  VectorSearchIndex index({.dim = 2, .metric = "dot", .k = 3});
  index.add(tensor(std::vector<double>{1, 0, 2, 0}, {2, 2}));
  index.add(tensor(std::vector<double>{3, 0}, {1, 2}), tensor(Ids{10}));
  index.add(tensor(std::vector<double>{4, 0}, {1, 2}));
  const Tensor q = tensor(std::vector<double>{1, 0}, {1, 2});
  expect_values(index.search(q).ids, {11, 10, 1});
  index.remove({11, 0});
  expect_values(index.search(q).ids, {10, 1, -1});
  index.update({1}, tensor(std::vector<double>{9, 0}, {1, 2}));
  expect_values(index.search(q).ids, {1, 10, -1});
  SearchArgs args;
  args.exclude_ids = {1};
  expect_values(index.search(q, args).ids, {10, -1, -1});
  VectorSearchIndex other({.dim = 2, .metric = "dot", .k = 3});
  other.load_state_dict(index.state_dict());
  expect_values(other.search(q).ids, {1, 10, -1});
  EXPECT_ERROR(index.remove({10, 77}), IndexError, "no document 77");
  EXPECT_EQ(index.size(), 2);
  EXPECT_ERROR(index.add(ones({1, 2}), tensor(Ids{10})), Error, "is there already");
}

TEST(VectorSearchIndex, MmrTakesTurnsBetweenLikeDocuments) {
  const Tensor docs = tensor(std::vector<double>{1, 0.1, 1, 0.11, 1, -0.4, 0.2, 1}, {4, 2});
  const Tensor q = tensor(std::vector<double>{1, 0}, {1, 2});
  expect_values(filled({.k = 2}, docs).search(q).ids, {0, 1});
  VectorSearchIndex varied = filled({.k = 2, .mmr_lambda = 0.5}, docs);
  const Found f = varied.search(q);
  expect_values(f.ids, {0, 2});
  EXPECT_NEAR(f.scores.to_vector()[1], 1 / std::sqrt(1.16), 1e-6) << "the score of the query";
  expect_values(filled({.k = 2, .mmr_lambda = 0.5, .candidates = 2}, docs).search(q).ids, {0, 1});
}

TEST(VectorSearchIndex, StorageRoundsTheVectors) {
  const Tensor docs = random({30, 8}, kFloat32, 5), q = random({1, 8}, kFloat32, 6);
  const Tensor exact = filled({.k = 1}, docs).search(q).scores;
  for (const char* storage : {"f16", "bf16", "i8"}) {
    const Tensor got = filled({.storage = storage, .k = 1}, docs).search(q).scores;
    EXPECT_LT(max_difference(got, exact), 0.01) << storage;
    EXPECT_GT(max_difference(got, exact), 0) << storage;
  }
}

TEST(VectorSearchIndex, ApproximateSearchFindsMostAndFiltersLoseNothing) {
  const Tensor docs = random({1500, 16}, kFloat32, 5), queries = random({40, 16}, kFloat32, 6);
  for (const char* metric : {"cosine", "l2"})
    for (const char* backend : {"hnsw", "ivf"}) {
      VectorSearchIndex exact = filled({.metric = metric, .k = 10}, docs),
                        quick = filled({.metric = metric, .backend = backend, .k = 10}, docs);
      const Found want = exact.search(queries), got = quick.search(queries);
      double found = 0;
      for (int64_t q = 0; q < 40; ++q) {
        const Ids a = ids_of(want.ids.select(0, q)), b = ids_of(got.ids.select(0, q));
        for (const int64_t id : a) found += std::count(b.begin(), b.end(), id) > 0;
      }
      EXPECT_GE(found / 400, std::string(backend) == "hnsw" ? 0.95 : 0.8)
          << backend << " " << metric;
      SearchArgs few;
      few.filter = zeros({1500}, kBool);
      few.filter.narrow(0, 700, 12).fill_(true);
      EXPECT_EQ(max_difference(quick.search(queries, few).ids, exact.search(queries, few).ids), 0);
      for (VectorSearchIndex* index : {&exact, &quick}) index->remove({0, 1, 2});
      EXPECT_EQ(quick.search(docs.narrow(0, 3, 1)).ids.to_vector()[0], 3) << "after a change";
    }
  VectorSearchIndex empty({.dim = 2, .backend = "ivf", .k = 1});
  expect_values(empty.search(ones({1, 2})).ids, {-1});
}

TEST(VectorSearchIndex, RecommendsWalksGroupsAndScores) {
  // on an arc from 0 to 90 degrees
  std::vector<double> v;
  for (int i = 0; i <= 10; ++i) {
    v.push_back(std::cos(i * 0.157079632679));
    v.push_back(std::sin(i * 0.157079632679));
  }
  VectorSearchIndex index = filled({.k = 3}, tensor(v, {11, 2}));
  EXPECT_EQ(index.path(0, 10, 6), (Ids{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(ids_of(index.recommend({4, 6}, {1, 1}).ids)[0], 5);
  EXPECT_EQ(ids_of(index.recommend({0}, {1}, "slerp").ids), (Ids{1, 2, 3}));
  const Ids groups = index.cluster({0, 1, 9, 10}, 2);
  EXPECT_EQ(groups[0], groups[1]);
  EXPECT_EQ(groups[2], groups[3]);
  EXPECT_NE(groups[0], groups[2]);
  Tensor q = random({2, 2}).requires_grad_();
  const Found f = index.search(q.detach());
  const Tensor s = index.scores_for(q, f.ids);
  EXPECT_LT(max_difference(s.detach(), f.scores), 1e-6);
  sum(s).backward();
  EXPECT_GT(sum(abs(q.grad())).item(), 0);
}

TEST(VectorSearchIndex, LeavesOutAndLooksAround) {
  const Tensor docs = random({300, 12}, kFloat32, 7), q = random({3, 12}, kFloat32, 8);
  VectorSearchIndex index = filled({.k = 5}, docs);
  const Found all = index.search(q, {.k = 40});
  EXPECT_EQ(all.ids.sizes(), (Shape{3, 40}));
  SearchArgs without;
  without.exclude_ids = ids_of(all.ids.select(0, 1).narrow(0, 0, 7));
  EXPECT_EQ(ids_of(index.search(q, without).ids.select(0, 1)),
            ids_of(all.ids.select(0, 1).narrow(0, 7, 5)));
  without.filter = ones({300}, kBool);
  EXPECT_EQ(ids_of(index.search_batch(q, without).ids.select(0, 1)),
            ids_of(all.ids.select(0, 1).narrow(0, 7, 5)));
  EXPECT_ERROR(index.search(q, {.k = -1}), OptionError, "k is -1");
  const Tensor direction = index.random_query(3);
  EXPECT_NEAR(norm(direction).item(), 1, 1e-6);
  EXPECT_EQ(max_difference(direction, index.random_query(3)), 0);
  EXPECT_GT(max_difference(direction, index.random_query(4)), 0);
  EXPECT_NEAR(index.search(index.random_query(5, true)).scores.to_vector()[0], 1, 1e-6);
  EXPECT_ERROR(VectorSearchIndex({.dim = 2}).random_query(1, true), Error, "no documents");
}

TEST(VectorSearchIndex, WideAndNarrowTypes) {
  const Tensor docs = random({200, 24}, kFloat32, 7), q = random({4, 24}, kFloat32, 8);
  for (const char* metric : {"cosine", "dot", "l2"})
    for (const char* storage : {"f32", "f16", "bf16", "i8"}) {
      VectorSearchIndex index = filled({.metric = metric, .storage = storage, .k = 3}, docs);
      const Found narrow = index.search(q), wide = index.search(q.to(kFloat64));
      EXPECT_EQ(wide.scores.dtype(), kFloat64);
      EXPECT_EQ(max_difference(narrow.ids, wide.ids), 0) << metric << storage;
      index.to(kFloat64);
      const Found all_wide = index.search(q.to(kFloat64));
      EXPECT_LT(max_difference(wide.scores, all_wide.scores), 1e-5) << metric << storage;
    }
}

TEST(QueryTemplate, PutsTheQueryInItsPlace) {
  EXPECT_EQ(QueryTemplate("a photo of {query}, sharp")("a red hat"), "a photo of a red hat, sharp");
  EXPECT_EQ(QueryTemplate("{query}")(""), "");
  EXPECT_ERROR(QueryTemplate("a photo"), OptionError, "{query} in it once");
  EXPECT_ERROR(QueryTemplate("{query}{query}"), OptionError, "{query} in it once");
}

TEST(VectorSearchIndex, RefusesWhatItCannotMean) {
  EXPECT_ERROR(VectorSearchIndex({}), OptionError, "dim is 0");
  EXPECT_ERROR(VectorSearchIndex({.dim = 2, .metric = "l1"}), OptionError, "metric is \"l1\"");
  EXPECT_ERROR(VectorSearchIndex({.dim = 2, .backend = "tree"}), OptionError,
               "backend is \"tree\"");
  EXPECT_ERROR(VectorSearchIndex({.dim = 2, .k = 0}), OptionError, "k is 0");
  EXPECT_ERROR(VectorSearchIndex({.dim = 2, .mmr_lambda = 1.5}), OptionError, "mmr_lambda is 1.5");
  EXPECT_ERROR(VectorSearchIndex({.dim = 2, .add_fields = {0}}), OptionError, "a weight for each");
  VectorSearchIndex index = filled({.k = 1}, ones({2, 2}));
  EXPECT_ERROR(index.add(full({1, 2}, NAN)), Error, "NaN or infinity");
  EXPECT_ERROR(index.search(full({1, 2}, NAN)), Error, "queries hold NaN");
  EXPECT_ERROR(index.search(ones({1, 3})), ShapeError, "because dim = 2");
  SearchArgs args;
  args.filter = ones({3}, kBool);
  EXPECT_ERROR(index.search(ones({1, 2}), args), ShapeError, "filter is [3]");
  VectorSearchIndex fields =
      filled({.k = 1, .add_fields = {2}, .add_weights = {1}}, ones({2, 2}), ones({2, 2}));
  EXPECT_ERROR(fields.search(ones({1, 2})), OptionError, "field 2 of documents with 2");
}

TEST(MergeEmbeddings, SlerpKeepsAnglesAndMagnitudes) {
  const Tensor parts = tensor(std::vector<double>{1, 0, 0, 3}, {1, 2, 2}, kFloat64);
  auto merged = [&](double a, double b, const char* method) {
    return merge_embeddings(parts, tensor(std::vector<double>{a, b}, {1, 2}, kFloat64),
                            {.method = method});
  };
  expect_values(merged(1, 1, "slerp"), {std::sqrt(0.5), 3 * std::sqrt(0.5)});
  expect_values(merged(2, 1, "slerp"), {std::sin(M_PI / 3), 3 * 0.5});
  expect_values(merged(1, 3, "lerp"), {0.25, 2.25});
  expect_values(merged(1, -3, "lerp"), {-0.5, 4.5});  // the public behaviour
  const double length = std::sqrt(1 + 81.0);
  expect_values(merged(1, -3, "sum"), {1 / length, -9 / length});
  expect_values(merged(1, -3, "nlerp"), {-1 / length, 9 / length});
  EXPECT_ERROR(merged(1, -1, "lerp"), Error, "sum to 0");
  EXPECT_ERROR(merged(1, -1, "slerp"), Error, "sum to 0");
  EXPECT_ERROR(merged(1, 1, "mean"), OptionError, "method is \"mean\"");
}

TEST(MergeEmbeddings, OrdersOfPartsDiffer) {
  const Tensor v = random({2, 5, 4}), w = abs(random({2, 5}, kFloat64, 3)) + 0.2;
  auto pair = [](const Tensor& a, const Tensor& wa, const Tensor& b, const Tensor& wb) {
    return merge_embeddings(stack({a, b}, 1), stack({wa, wb}, 1), {.method = "slerp"});
  };
  auto at = [](const Tensor& t, int64_t i) { return t.select(1, i); };
  const Tensor a = pair(at(v, 0), at(w, 0), at(v, 1), at(w, 1)),
               b = pair(at(v, 2), at(w, 2), at(v, 3), at(w, 3)), wa = (at(w, 0) + at(w, 1)) * 0.5,
               wb = (at(w, 2) + at(w, 3)) * 0.5;
  const Tensor want = pair(pair(a, wa, b, wb), (wa + wb) * 0.5, at(v, 4), at(w, 4));
  EXPECT_LT(max_difference(merge_embeddings(v, w, {.method = "slerp"}), want), 1e-14);
  Tensor y = at(v, 0), wy = at(w, 0);
  for (int64_t i = 1; i < 5; ++i) {
    y = pair(y, wy, at(v, i), at(w, i));
    wy = (wy + at(w, i)) * 0.5;
  }
  EXPECT_LT(max_difference(merge_embeddings(v, w, {.method = "slerp_sequential"}), y), 1e-14);
}

TEST(MergeEmbeddings, ParallelAndOppositeParts) {
  auto slerp = [](const std::vector<double>& parts, double a, double b) {
    return merge_embeddings(tensor(parts, {1, 2, 2}, kFloat64),
                            tensor(std::vector<double>{a, b}, {1, 2}, kFloat64),
                            {.method = "slerp"});
  };
  expect_values(slerp({1, 0, 3, 0}, 1, 1), {2, 0});
  expect_values(slerp({1, 0, -1, 0}, 3, 1), {0.5, 0});
  EXPECT_ERROR(slerp({1, 0, -1, 0}, 1, 1), Error, "has length 0");
  EXPECT_ERROR(slerp({1, 0, 0, 0}, 1, 1), Error, "a part of query 0 has length 0");
  EXPECT_ERROR(merge_embeddings(tensor(std::vector<double>{1, 0, 1, 0}, {1, 2, 2}),
                                tensor(std::vector<double>{1, -1}, {1, 2})),
               Error, "the sum of query 0 has length 0");
  EXPECT_ERROR(merge_embeddings(zeros({1, 0, 2}), zeros({1, 0})), ShapeError, "P >= 1");
  EXPECT_ERROR(merge_embeddings(zeros({1, 2, 2}), zeros({1, 3})), ShapeError, "weights is [1, 3]");
}

}  // namespace
}  // namespace dropin::testing
