// Tasks: queued, running with progress, then success or error, visible to the
// property collector and in recentTask. A virtual machine runs one at a time.
// What a task does is its caller's business.
package vcenter

import (
	"errors"
	"log"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

type taskBook struct {
	mu   sync.Mutex
	busy map[types.ManagedObjectReference]types.ManagedObjectReference // entity -> task
	all  sync.WaitGroup
}

func newTaskBook() *taskBook {
	return &taskBook{busy: map[types.ManagedObjectReference]types.ManagedObjectReference{}}
}

// work is the act of a task; progress takes percent. A result of nil is fine.
type work func(progress func(int)) (types.AnyType, *fault)

// startTask makes the task and runs it in the background: a caller whose reply
// gets lost does not stop it. method is the SOAP method without _Task.
func (s *Server) startTask(entity types.ManagedObjectReference, entityName, method, user string, act work) (types.ManagedObjectReference, *fault) {
	s.tasks.mu.Lock()
	if running, ok := s.tasks.busy[entity]; ok {
		s.tasks.mu.Unlock()
		return running, newFault(&types.TaskInProgress{Task: running}, "%s", wellKnown["TaskInProgress"])
	}
	task := simulator.CreateTask(entity, method+"Task", nil)
	s.tasks.busy[entity] = task.Self
	s.tasks.all.Add(1)
	s.tasks.mu.Unlock()

	ctx := simulator.SpoofContext()
	simulator.Map.WithLock(ctx, task, func() {
		task.Info.EntityName = entityName
		task.Info.Cancelable = false
		task.Info.EventChainId = 1
		task.Info.Reason = &types.TaskReasonUser{UserName: user}
	})
	s.changes.wake()
	go s.runTask(task, entity, act)
	return task.Self, nil
}

func (s *Server) runTask(task *simulator.Task, entity types.ManagedObjectReference, act work) {
	defer s.tasks.all.Done()
	delay := s.settings.get().taskDelay()
	time.Sleep(delay / 5)
	s.updateTask(task, types.PropertyChange{Name: "info.startTime", Val: time.Now()},
		types.PropertyChange{Name: "info.state", Val: types.TaskInfoStateRunning})
	progress := func(percent int) {
		s.updateTask(task, types.PropertyChange{Name: "info.progress", Val: int32(percent)})
	}
	for step := 1; step <= 3 && delay > 0; step++ {
		progress(step * 20)
		time.Sleep(delay / 5)
	}
	result, f := s.struckTask(task, entity)
	if f == nil {
		result, f = act(progress)
	}
	time.Sleep(delay / 5)

	// The entity is free before the task shows its end: who sees the end may
	// start the next task at once.
	s.tasks.mu.Lock()
	delete(s.tasks.busy, entity)
	s.tasks.mu.Unlock()
	changes := []types.PropertyChange{{Name: "info.completeTime", Val: time.Now()}}
	if f != nil {
		changes = append(changes,
			types.PropertyChange{Name: "info.error", Val: types.LocalizedMethodFault{Fault: f.detail, LocalizedMessage: f.message}},
			types.PropertyChange{Name: "info.state", Val: types.TaskInfoStateError})
	} else {
		changes = append(changes,
			types.PropertyChange{Name: "info.progress", Val: int32(100)},
			types.PropertyChange{Name: "info.result", Val: result},
			types.PropertyChange{Name: "info.state", Val: types.TaskInfoStateSuccess})
	}
	s.updateTask(task, changes...)
}

// struckTask lets a fault script fail the task itself rather than the call that
// starts it: the rule's method is "task:CreateSnapshot_Task".
func (s *Server) struckTask(task *simulator.Task, entity types.ManagedObjectReference) (types.AnyType, *fault) {
	rule, struck := s.faults.Match(serviceSOAP, "task:"+task.Info.Name, entity.Value)
	if !struck {
		return nil, nil
	}
	if rule.DelayMS > 0 {
		time.Sleep(rule.Delay())
	}
	if rule.Fault == "" {
		return nil, nil
	}
	f, err := faultByName(rule.Fault, rule.Message, entity)
	if err != nil {
		return nil, newFault(&types.SystemError{}, "fault script: %v", err)
	}
	return nil, f
}

func (s *Server) updateTask(task *simulator.Task, changes ...types.PropertyChange) {
	simulator.Map.AtomicUpdate(simulator.SpoofContext(), task, changes)
}

// runNow is what the control socket and the guest do to a VM: waited for, without
// delay, and never at the same time as a task. A task under way ends first.
func (s *Server) runNow(entity types.ManagedObjectReference, act func() error) error {
	mark := types.ManagedObjectReference{Type: "Task", Value: "control"}
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		s.tasks.mu.Lock()
		_, busy := s.tasks.busy[entity]
		if !busy {
			s.tasks.busy[entity] = mark
		}
		s.tasks.mu.Unlock()
		if !busy {
			break
		}
		if time.Now().After(deadline) {
			return errors.New("a task has been in progress on this virtual machine for too long")
		}
	}
	defer func() {
		s.tasks.mu.Lock()
		delete(s.tasks.busy, entity)
		s.tasks.mu.Unlock()
	}()
	return act()
}

// patience is how long runNow waits for a task.
const patience = 2 * time.Minute

// systemError is for what should not happen in a lab: its own disk is full.
func systemError(err error) *fault {
	log.Printf("vcenter: %v", err)
	return newFault(&types.SystemError{Reason: err.Error()}, "A general system error occurred: %v", err)
}
