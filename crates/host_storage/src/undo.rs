//! Changes of the host in several steps that happen all or not at all.
//!
//! Whoever changes something pushes how to take it back. When the stack is dropped before [`UndoStack::commit`], by an early return
//! or a panic, the steps run in reverse order, each of them whatever became of the others; what fails is logged, because there is
//! nobody left to tell.
//!
//! ```
//! # use host_storage::undo::UndoStack;
//! # fn make_disk() -> std::io::Result<()> { Ok(()) }
//! # fn make_network() -> std::io::Result<()> { Ok(()) }
//! # fn f() -> std::io::Result<()> {
//! let mut undo = UndoStack::new("create the machine");
//! make_disk()?;
//! undo.push("remove the disk", || Ok(()));
//! make_network()?; // an error here removes the disk
//! undo.commit();
//! # Ok(())
//! # }
//! ```
//!
//! A step must hold what it needs (open files, owned names), take no lock that its maker may hold, and do nothing when the change is
//! gone already. It survives no crash of the process: what must, is written down by its maker before the change.

/// Why a step failed.
type Fault = Box<dyn std::error::Error + Send + Sync>;

struct Step {
    what: String,
    undo: Box<dyn FnOnce() -> Result<(), Fault> + Send>,
}

/// How to take back what was done so far.
#[must_use = "dropping it takes everything back at once"]
pub struct UndoStack {
    operation: String,
    steps: Vec<Step>,
}

impl UndoStack {
    /// For an operation that the log can name, as in "start the pool".
    pub fn new(operation: impl Into<String>) -> Self {
        Self { operation: operation.into(), steps: Vec::new() }
    }

    /// Something was done; `undo` takes it back, and `what` says that in the log, as in "unmount /p".
    pub fn push(
        &mut self,
        what: impl Into<String>,
        undo: impl FnOnce() -> Result<(), Fault> + Send + 'static,
    ) {
        self.steps.push(Step { what: what.into(), undo: Box::new(undo) });
    }

    /// Everything was done: nothing is taken back.
    pub fn commit(mut self) {
        self.steps.clear();
    }
}

impl Drop for UndoStack {
    fn drop(&mut self) {
        while let Some(step) = self.steps.pop() {
            if let Err(error) = (step.undo)() {
                tracing::error!("after \"{}\" failed, could not {}: {error}", self.operation, step.what);
            }
        }
    }
}

impl std::fmt::Debug for UndoStack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let steps: Vec<&str> = self.steps.iter().map(|step| step.what.as_str()).collect();
        f.debug_struct("UndoStack").field("operation", &self.operation).field("steps", &steps).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::UndoStack;

    #[test]
    fn steps_are_taken_back_in_reverse_even_if_one_fails_unless_committed() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let stack = || {
            let mut undo = UndoStack::new("test");
            for step in 1..=3 {
                let log = Arc::clone(&log);
                undo.push(format!("undo {step}"), move || {
                    log.lock().unwrap().push(step);
                    if step == 2 { Err("no".into()) } else { Ok(()) }
                });
            }
            undo
        };
        drop(stack());
        assert_eq!(*log.lock().unwrap(), [3, 2, 1]);
        stack().commit();
        assert_eq!(log.lock().unwrap().len(), 3, "what is committed stays");
    }
}
