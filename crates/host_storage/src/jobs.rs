//! Who works on what: a volume is claimed for a job, and claims that do not go together are refused.
//!
//! Claims keep this process' own threads apart before anything is touched, and tell which job is in the way; locks on files
//! (`block_io::FileLock`) keep other processes apart.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::StorageError;

#[derive(Debug, Default)]
struct Claims {
    /// A change of the whole pool, and what it is.
    pool: Option<&'static str>,
    /// How many look at the whole pool.
    looks: usize,
    /// By volume: what changes it, and how many read it.
    volumes: HashMap<String, (Option<&'static str>, usize)>,
}

/// The jobs on a pool.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Mutex<Claims>);

/// A claim, given back when dropped.
#[derive(Debug)]
pub(crate) struct Job {
    jobs: Arc<Jobs>,
    /// `None` for the pool.
    volume: Option<String>,
    exclusive: bool,
}

impl Jobs {
    /// Claims the pool for a change of its state; nobody may work on it.
    pub(crate) fn claim_pool(self: &Arc<Self>, pool: &str, what: &'static str) -> Result<Job, StorageError> {
        let mut claims = self.0.lock();
        let object = || format!("storage pool '{pool}'");
        if let Some(other) = claims.pool {
            return Err(StorageError::InUse { object: object(), holder: format!("there is a job: {other}") });
        }
        if claims.looks > 0 {
            return Err(StorageError::InUse { object: object(), holder: "there is a job: refresh".into() });
        }
        if let Some((volume, (other, _))) = claims.volumes.iter().next() {
            let other = other.unwrap_or("read");
            let holder = format!("there is a job on its volume '{volume}': {other}");
            return Err(StorageError::InUse { object: object(), holder });
        }
        claims.pool = Some(what);
        Ok(Job { jobs: Arc::clone(self), volume: None, exclusive: true })
    }

    /// Claims the pool for a look at all of it, which jobs on volumes do not disturb.
    pub(crate) fn share_pool(self: &Arc<Self>, pool: &str) -> Result<Job, StorageError> {
        let mut claims = self.0.lock();
        if let Some(other) = claims.pool {
            let object = format!("storage pool '{pool}'");
            return Err(StorageError::InUse { object, holder: format!("there is a job: {other}") });
        }
        claims.looks += 1;
        Ok(Job { jobs: Arc::clone(self), volume: None, exclusive: false })
    }

    /// Claims a volume for a job that changes it.
    pub(crate) fn claim(self: &Arc<Self>, volume: &str, what: &'static str) -> Result<Job, StorageError> {
        self.claim_volume(volume, Some(what))
    }

    /// Claims a volume for a job that reads it.
    pub(crate) fn share(self: &Arc<Self>, volume: &str) -> Result<Job, StorageError> {
        self.claim_volume(volume, None)
    }

    fn claim_volume(
        self: &Arc<Self>,
        volume: &str,
        change: Option<&'static str>,
    ) -> Result<Job, StorageError> {
        let mut claims = self.0.lock();
        let busy = |other: &str| StorageError::InUse {
            object: format!("volume '{volume}'"),
            holder: format!("there is a job: {other}"),
        };
        if let Some(other) = claims.pool {
            return Err(busy(other));
        }
        let entry = claims.volumes.get(volume).copied().unwrap_or_default();
        let entry = match (entry, change) {
            ((Some(other), _), _) => return Err(busy(other)),
            ((None, readers), Some(_)) if readers > 0 => return Err(busy("read")),
            ((None, _), Some(what)) => (Some(what), 0),
            ((None, readers), None) => (None, readers + 1),
        };
        claims.volumes.insert(volume.to_owned(), entry);
        Ok(Job { jobs: Arc::clone(self), volume: Some(volume.to_owned()), exclusive: change.is_some() })
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let mut claims = self.jobs.0.lock();
        let Some(volume) = &self.volume else {
            if self.exclusive {
                claims.pool = None;
            } else {
                claims.looks = claims.looks.saturating_sub(1);
            }
            return;
        };
        let others = match claims.volumes.get_mut(volume) {
            Some((None, readers)) if !self.exclusive && *readers > 1 => {
                *readers -= 1;
                true
            }
            _ => false,
        };
        if !others {
            claims.volumes.remove(volume);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_a_volume_and_a_change_has_it_alone() {
        let jobs = Arc::new(Jobs::default());
        let readers = (jobs.share("v").unwrap(), jobs.share("v").unwrap());
        let message = jobs.claim("v", "resize").unwrap_err().to_string();
        assert_eq!(message, "volume 'v' is in use: there is a job: read");
        let other = jobs.claim("w", "wipe").unwrap();
        drop(readers.0);
        assert!(jobs.claim("v", "resize").is_err());
        drop(readers.1);
        let change = jobs.claim("v", "resize").unwrap();
        let message = jobs.share("v").unwrap_err().to_string();
        assert_eq!(message, "volume 'v' is in use: there is a job: resize");
        assert!(jobs.claim_pool("p", "stop").is_err());
        drop((change, other));
        let looks = (jobs.share_pool("p").unwrap(), jobs.share_pool("p").unwrap());
        drop(jobs.claim("v", "wipe").unwrap());
        drop(looks.0);
        assert!(jobs.claim_pool("p", "stop").is_err());
        drop(looks.1);
        let pool = jobs.claim_pool("p", "stop").unwrap();
        assert!(jobs.share("v").is_err());
        assert!(jobs.claim_pool("p", "refresh").is_err());
        drop(pool);
        jobs.claim("v", "delete").unwrap();
    }
}
