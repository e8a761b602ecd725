// Hooks: what runs before and after a module's forward(), and in its backward.
#include <utility>

#include "dropin/module/module.h"

namespace dropin {

/// Lists of hooks by number, in the order of registration.
struct ModuleHooks {
  template <class F>
  using List = std::vector<std::pair<int64_t, F>>;
  List<ForwardPreHook> before;
  List<ForwardHook> after;
  List<BackwardHook> backward;
  int64_t next = 0;
  Module* module = nullptr;  ///< null once it was moved or destroyed
};

detail::HookHolder::HookHolder(HookHolder&& o) noexcept : hooks(std::move(o.hooks)) {
  if (hooks) hooks->module = nullptr;  // known again at the next call
}
detail::HookHolder::~HookHolder() {
  if (hooks) hooks->module = nullptr;
}

void RemovableHandle::remove() {
  const auto hooks = hooks_.lock();
  if (!hooks) return;
  const auto mine = [this](const auto& h) { return h.first == id_; };
  std::erase_if(hooks->before, mine);
  std::erase_if(hooks->after, mine);
  std::erase_if(hooks->backward, mine);
}

ModuleHooks& Module::own_hooks() {
  DROPIN_CHECK(runs_hooks(), StateError, type(),
               ": calls of this module run no hooks; a class runs them by calling with_hooks() and "
               "saying so in runs_hooks()");
  if (!hooks_.hooks) hooks_.hooks = std::make_shared<ModuleHooks>();
  return *hooks_.hooks;
}
RemovableHandle Module::add_hook(ForwardPreHook f) {
  ModuleHooks& h = own_hooks();
  h.before.emplace_back(h.next, std::move(f));
  return {hooks_.hooks, h.next++};
}
RemovableHandle Module::add_hook(ForwardHook f) {
  ModuleHooks& h = own_hooks();
  h.after.emplace_back(h.next, std::move(f));
  return {hooks_.hooks, h.next++};
}
RemovableHandle Module::add_hook(BackwardHook f) {
  ModuleHooks& h = own_hooks();
  h.backward.emplace_back(h.next, std::move(f));
  return {hooks_.hooks, h.next++};
}

namespace {

/// One call whose gradients the backward hooks see.
struct HookedCall {
  std::shared_ptr<ModuleHooks> hooks;
  std::string type;      ///< of the module, for messages
  Tensors grad_outputs;  ///< once backward has come to the result

  Tensors run(Tensors grad_inputs) const {
    const auto list = hooks->backward;  // a hook may remove itself
    DROPIN_CHECK(hooks->module || list.empty(), AutogradError, type,
                 ": a backward hook's module was moved or destroyed after its forward");
    for (const auto& [id, hook] : list) {
      Tensors instead = hook(*hooks->module, grad_inputs, grad_outputs);
      if (instead.empty()) continue;
      DROPIN_CHECK(instead.size() == grad_inputs.size(), AutogradError, type,
                   ": a backward hook returned ", instead.size(), " gradients, expected ",
                   grad_inputs.size());
      grad_inputs = std::move(instead);
    }
    return grad_inputs;
  }
};

/// The inputs as results of an operation whose gradients go through the hooks.
Tensors watched_inputs(const Tensors& inputs, const std::shared_ptr<HookedCall>& call) {
  Tensors same;
  for (const Tensor& x : inputs) same.push_back(x.defined() ? x.detach() : x);
  return record_many("backward_hook", same, inputs, {},
                     [call](const Saved&, const Tensors& g) { return call->run(g); });
}
/// The result as that of an operation that notes its gradient; it runs the hooks itself when no
/// input wants one.
Tensor watched_output(const Tensor& y, const std::shared_ptr<HookedCall>& call, std::size_t inputs,
                      bool last) {
  return record("backward_hook_output", y.detach(), {y}, {},
                [call, inputs, last](const Saved&, const Tensor& g) -> Tensors {
                  call->grad_outputs = {g};
                  if (last) call->run(Tensors(inputs));
                  return {g};
                });
}

}  // namespace

Tensor Module::hooked(Tensors inputs, const std::function<Tensor(const Tensors&)>& forward) {
  const std::shared_ptr<ModuleHooks> hooks = hooks_.hooks;
  hooks->module = this;
  const auto before = hooks->before;  // hooks may remove themselves
  for (const auto& [id, hook] : before) {
    Tensors instead = hook(*this, inputs);
    if (instead.empty()) continue;
    DROPIN_CHECK(instead.size() == inputs.size(), StateError, type(),
                 ": a forward pre-hook returned ", instead.size(), " tensors, expected ",
                 inputs.size());
    inputs = std::move(instead);
  }
  std::shared_ptr<HookedCall> call;
  const bool wanted = detail::any_requires_grad(inputs.data(), inputs.size());
  if (!hooks->backward.empty() && grad_enabled()) {
    call = std::make_shared<HookedCall>(HookedCall{hooks, std::string(type()), {}});
    if (wanted) inputs = watched_inputs(inputs, call);
  }
  Tensor y = forward(inputs);
  const auto after = hooks->after;
  for (const auto& [id, hook] : after) {
    Tensor instead = hook(*this, inputs, y);
    if (instead.defined()) y = std::move(instead);
  }
  return call && y.requires_grad() ? watched_output(y, call, inputs.size(), !wanted) : y;
}

}  // namespace dropin
