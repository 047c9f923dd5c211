//! Which call meets which fault.

use std::sync::Mutex;

use crate::call::Call;
use crate::faults::{Fault, Rule};
use crate::hook::{BoxFuture, Hook};

/// A list of rules as a [`Hook`]. Where several rules cover a call, the first one added decides; all of them count it.
#[derive(Debug, Default)]
pub struct FaultPlan(Mutex<Vec<(Rule, usize)>>);

impl FaultPlan {
    /// A plan of these rules.
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self(Mutex::new(rules.into_iter().map(|rule| (rule, 0)).collect()))
    }

    /// Adds a rule; it counts calls from here on.
    pub fn add(&self, rule: Rule) {
        self.lock().push((rule, 0));
    }

    /// Forgets all rules.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// The rules, in the order in which they were added, each with the number of calls that it has counted.
    pub fn rules(&self) -> Vec<(Rule, usize)> {
        self.lock().clone()
    }

    /// Counts the call, and names the fault that it meets.
    pub fn fault_for(&self, call: &Call) -> Option<Fault> {
        let mut fault = None;
        for (rule, count) in self.lock().iter_mut().filter(|(rule, _)| counts(rule, call)) {
            *count += 1;
            if rule.covers(*count) {
                fault.get_or_insert_with(|| rule.fault.clone());
            }
        }
        fault
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Rule, usize)>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Hook for FaultPlan {
    fn before<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Option<Fault>> {
        let fault = self.fault_for(call);
        Box::pin(std::future::ready(fault))
    }
}

fn counts(rule: &Rule, call: &Call) -> bool {
    rule.operation.as_ref().is_none_or(|operation| *operation == call.operation)
        && rule.caller.as_ref().is_none_or(|caller| *caller == call.tag)
}
