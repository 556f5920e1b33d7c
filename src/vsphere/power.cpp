// Power operations. Off is off whoever did it: the state decides, not the fate of a call.
#include "vsphere/power.hpp"

#include <fmt/format.h>

#include "vsphere/inventory.hpp"
#include "vsphere/properties.hpp"
#include "vsphere/tasks.hpp"

namespace vmferry::vsphere {

namespace {

using namespace std::chrono_literals;

constexpr std::chrono::seconds blocked_patience{600};
constexpr std::chrono::seconds blocked_pause{5};
constexpr int lost_replies = 5;

bool is_off(const ObjectProperties& vm) { return vm["runtime.powerState"].text() == "poweredOff"; }

}  // namespace

model::Power power_state(Session& session, const model::VmId& vm, std::stop_token stop) {
  const std::string state = read(session, vm_ref(vm), {"runtime.powerState"}, stop)["runtime.powerState"].text();
  if (state == "poweredOff") return model::Power::off;
  if (state == "suspended") return model::Power::suspended;
  if (state == "poweredOn") return model::Power::on;
  throw Error(Fault::data, fmt::format("{} tells no power state of {}: '{}'", session.server(), vm.value, state));
}

void shut_down_guest(Session& session, const model::VmId& vm, std::stop_token stop) {
  if (power_state(session, vm, stop) == model::Power::off) return;
  try {
    // Asking a guest that is shutting down once more changes nothing.
    session.call(Call("ShutdownGuest", vm_ref(vm)), Repeat::freely, stop);
  } catch (const FaultError& e) {
    // A repeated request may come when the guest is already down.
    if (e.name() == "InvalidPowerState" && power_state(session, vm, stop) == model::Power::off) return;
    throw;
  }
}

void power_off(Session& session, const model::VmId& vm, std::stop_token stop) {
  const auto deadline = session.clock().mono() + blocked_patience;
  for (int lost = 0; power_state(session, vm, stop) != model::Power::off;) {
    if (await_unfinished(session, vm_ref(vm), {"powerOff"}, std::nullopt, stop)) continue;
    try {
      const Node started = session.call(Call("PowerOffVM_Task", vm_ref(vm)), Repeat::never, stop);
      await(session, started["returnval"].moref(), fmt::format("PowerOffVM_Task on {}", vm.value), std::nullopt, stop);
    } catch (const http::Broken& broken) {
      if (!broken.may_have_acted() || ++lost > lost_replies) throw;
      sleep_or_cancel(session.clock(), 2s, stop);
    } catch (const FaultError& e) {
      // Somebody was faster, or the task is so old that it was forgotten: the state tells.
      if (e.name() == "InvalidPowerState" || e.name() == "ManagedObjectNotFound") {
        if (power_state(session, vm, stop) == model::Power::off) return;
        throw;
      }
      if (e.name() != "TaskInProgress" || session.clock().mono() > deadline) throw;
      if (!await_unfinished(session, vm_ref(vm), {}, std::nullopt, stop))
        sleep_or_cancel(session.clock(), blocked_pause, stop);
    }
  }
}

bool wait_until_off(Session& session, const model::VmId& vm, std::chrono::seconds patience, std::stop_token stop) {
  return wait_until(session, vm_ref(vm), {"runtime.powerState"}, is_off, session.clock().mono() + patience, stop);
}

}  // namespace vmferry::vsphere
