#include "dropin/model/object_aware_decoder.h"

#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

ObjectAwareDecoderOptions small() {
  return {.feature_dim = 5,
          .hidden_dim = 8,
          .num_heads = 2,
          .num_layers = 2,
          .dim_feedforward = 6,
          .num_queries = 4,
          .num_frames = 3,
          .patches_per_frame = 4,
          .embed_dim = 3};
}

TEST(ObjectAwareDecoder, AStillSceneHasStillBoxes) {
  no_grad guard;
  ObjectAwareDecoder m(small());
  m.eval();
  for (auto& [name, p] : m.named_parameters())
    if (name == "frame_index.weight") p.copy_(p.narrow(0, 0, 1).clone().expand(p.sizes()));
  const ObjectAware r = m.decode(random({2, 3, 4, 5}, kFloat32));
  ASSERT_EQ(r.boxes.sizes(), (Shape{2, 2, 3, 4, 4}));
  for (int64_t t = 1; t < 3; ++t)
    EXPECT_EQ(max_difference(r.boxes.select(2, t), r.boxes.select(2, 0)), 0);
}

TEST(ObjectAwareDecoder, TheLastQueryIsTheVideo) {
  no_grad guard;
  ObjectAwareDecoder m(small());
  m.eval();
  const Tensor x = random({2, 3, 4, 5}, kFloat32);
  const ObjectAware r = m.decode(x);
  EXPECT_EQ(max_difference(m(x), r.video_embed), 0);
  EXPECT_EQ(r.object_embeds.sizes(), (Shape{2, 3, 3}));
  EXPECT_FALSE(r.attention.defined());
}

TEST(ObjectAwareDecoder, ShowsWhereItsQueriesLook) {
  no_grad guard;
  ObjectAwareDecoderOptions o = small();
  o.return_attention = true;
  for (const bool first : {true, false}) {
    o.self_attn_first = first;
    ObjectAwareDecoder m(o);
    m.eval();
    const ObjectAware r = m.decode(random({2, 3, 4, 5}, kFloat32));
    ASSERT_EQ(r.attention.sizes(), (Shape{2, 2, 4, 12}));
    EXPECT_LT(max_difference(sum(r.attention, {3}), ones({2, 2, 4})), 1e-5);
  }
}

TEST(ObjectAwareDecoder, PositionsReachKeysOnly) {
  no_grad guard;
  ObjectAwareDecoder m(small());
  m.eval();
  const Tensor x = random({1, 3, 4, 5}, kFloat32), before = m(x).clone();
  Tensor pos;
  for (auto& [name, p] : m.named_parameters())
    if (name == "pos_embed") pos = p;
  pos.narrow(1, 0, 1).fill_(100);  // the row that is not used
  EXPECT_EQ(max_difference(m(x), before), 0);
  pos.add_(3.0);  // all keys alike: softmax does not see it
  EXPECT_LT(max_difference(m(x), before), 1e-4);
}

TEST(ObjectAwareDecoder, RefusesWhatDoesNotFitInWords) {
  ObjectAwareDecoder m(small());
  EXPECT_ERROR(m(zeros({1, 2, 4, 5})), ShapeError, "expected [B, 3, 4, 5]");
  auto with = [](auto set) {
    ObjectAwareDecoderOptions o = small();
    set(o);
    ObjectAwareDecoder made(o);
  };
  EXPECT_ERROR(with([](auto& o) { o.num_queries = 2; }), OptionError, "more than num_hands = 2");
  EXPECT_ERROR(with([](auto& o) { o.num_heads = 3; }), OptionError, "not divisible by num_heads 3");
  EXPECT_ERROR(with([](auto& o) { o.dropout = 1; }), OptionError, "dropout is 1");
}

}  // namespace
}  // namespace dropin
