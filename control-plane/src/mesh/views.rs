//! The mesh as the sidecars of each identity follow it. Whoever looks finds the newest one; woken is who has to be told
//! something, so that a change costs as much as it concerns, however large the mesh is.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
};

use sidegate_identity::SpiffeId;
use tokio::sync::watch;

use super::Mesh;

/// One view for each identity of the mesh.
#[derive(Debug, Default)]
pub(crate) struct Views {
    /// Held for a few instructions, or for one walk over the identities.
    by_identity: Mutex<HashMap<SpiffeId, watch::Sender<Arc<Mesh>>>>,
}

impl Views {
    /// `None`: the identity is no service of the mesh.
    pub(crate) fn follow(&self, identity: &SpiffeId) -> Option<watch::Receiver<Arc<Mesh>>> {
        let views = self.by_identity.lock().unwrap_or_else(PoisonError::into_inner);
        views.get(identity).map(watch::Sender::subscribe)
    }

    /// Shows everybody the new mesh, and wakes those whom it concerns: of an identity that is gone, all.
    pub(super) fn publish(&self, mesh: &Arc<Mesh>) {
        let mut views = self.by_identity.lock().unwrap_or_else(PoisonError::into_inner);
        for identity in mesh.config.services.iter().map(|service| &service.identity) {
            match views.entry(identity.clone()) {
                Entry::Vacant(place) => drop(place.insert(watch::Sender::new(mesh.clone()))),
                Entry::Occupied(view) => show(view.get(), mesh, |before| mesh.is_news_to(identity, before)),
            }
        }
        views.retain(|identity, view| {
            let is_there = mesh.config.workload(identity).is_some();
            if !is_there {
                show(view, mesh, |_| true);
            }
            is_there
        });
    }
}

fn show(view: &watch::Sender<Arc<Mesh>>, mesh: &Arc<Mesh>, is_news: impl FnOnce(&Mesh) -> bool) {
    view.send_if_modified(|shown| {
        let is_news = is_news(shown);
        shown.clone_from(mesh);
        is_news
    });
}
