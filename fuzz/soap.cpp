// Feeds arbitrary bytes to everything that reads a vSphere reply. Only Error may come out of it.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.hpp"
#include "vsphere/changed_areas.hpp"
#include "vsphere/fault.hpp"
#include "vsphere/machine_config.hpp"
#include "vsphere/properties.hpp"
#include "vsphere/soap.hpp"
#include "vsphere/tasks.hpp"

namespace {

using namespace vmferry;

template <class F>
void tolerate(F read) {
  try {
    read();
  } catch (const Error&) {
    // A refusal in words is the right answer to nonsense.
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  tolerate([&] {
    const vsphere::Reply reply = vsphere::decode_reply({reinterpret_cast<const char*>(data), size});
    if (reply.fault) {
      const vsphere::FaultError error = vsphere::fault_error("server", "call", *reply.fault);
      static_cast<void>(error.property());
      return;
    }
    const vsphere::Node value = reply.value["returnval"];
    static_cast<void>(value.type());
    tolerate([&] { static_cast<void>(vsphere::parse_changed_page(value)); });
    tolerate([&] { static_cast<void>(vsphere::parse_snapshots(value)); });
    tolerate([&] { static_cast<void>(vsphere::parse_disks(value.children())); });
    tolerate([&] {
      for (const vsphere::ObjectProperties& object : vsphere::parse_objects(value)) {
        tolerate([&] { static_cast<void>(vsphere::parse_machine(object)); });
        tolerate([&] {
          const vsphere::Task task = vsphere::parse_task(object.object, object["info"]);
          if (task.error) static_cast<void>(vsphere::fault_error("server", "call", *task.error));
        });
      }
    });
  });
  return 0;
}
