//! Volumes that come and go as streams.
//!
//! Disks are read and written on blocking threads, one piece at a time, while the connection's task moves packets: a slow disk
//! makes the client wait, a slow client makes the disk wait, and nobody else.

use std::io::{self, Read, Write};
use std::sync::Arc;

use host_storage::{Download, Piece, Upload};
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Stream, StreamInput, StreamReceiver, StreamSender, Table};
use libvirt_rpc::{ErrorDomain, RpcError};

use super::{PoolEvent, only, storage_error};
use crate::service::Daemon;

/// VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM and VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM.
const SPARSE: u32 = 1;

/// Bytes that are read of a disk at a time: four packets.
const CHUNK: usize = 1 << 20;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table.on(upload).on(download)
}

async fn upload(daemon: Arc<Daemon>, context: CallContext, call: StorageVolUpload) -> Result<(), RpcError> {
    only(call.flags, SPARSE)?;
    let pool = daemon.pool_of(&call.vol)?;
    let (name, of_pool) = (call.vol.name.clone(), Arc::clone(&pool));
    let upload =
        daemon.with_storage(move |storage| storage.upload(&of_pool, &name, call.offset, call.length)).await?;
    let Stream { receiver, sender } = context.stream()?;
    tokio::spawn(async move {
        let received = receive(upload, receiver).await;
        // Also after half an upload. The client hears that it is done when others see it.
        let of_pool = Arc::clone(&pool);
        let looked = daemon
            .with_storage(move |storage| {
                storage.update_sizes(&of_pool);
                Ok(())
            })
            .await;
        daemon.tell_pool(&pool, PoolEvent::Refreshed);
        match received.and_then(|finished| looked.map(|()| finished)) {
            // Nobody is left to hear that nobody is left.
            Ok(true) => drop(sender.finish().await),
            Ok(false) => {}
            Err(error) => sender.fail(&error).await,
        }
    });
    Ok(())
}

/// Writes what comes, and makes it durable when all of it has come; false when the client went away, which leaves what was
/// written.
async fn receive(mut upload: Upload, mut receiver: StreamReceiver) -> Result<bool, RpcError> {
    loop {
        let Ok(input) = receiver.receive().await else { return Ok(false) };
        let done = match input {
            StreamInput::Data(bytes) => on_disk(upload, move |upload| upload.write_all(&bytes)).await,
            StreamInput::Hole(bytes) => on_disk(upload, move |upload| upload.hole(bytes)).await,
            StreamInput::Finish => {
                let finished = tokio::task::spawn_blocking(move || upload.finish()).await;
                let finished = finished.map_err(|error| ended(&error))?;
                return finished.map(|()| true).map_err(|error| storage_error(&error));
            }
        };
        (upload, ()) = done?;
    }
}

/// Works on a volume on a blocking thread, and gives it back.
async fn on_disk<V: Send + 'static, T: Send + 'static>(
    mut volume: V,
    work: impl FnOnce(&mut V) -> io::Result<T> + Send + 'static,
) -> Result<(V, T), RpcError> {
    let worked = tokio::task::spawn_blocking(move || work(&mut volume).map(|done| (volume, done))).await;
    match worked {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(RpcError::system(error.to_string()).from_part(ErrorDomain::Storage)),
        Err(error) => Err(ended(&error)),
    }
}

fn ended(error: &tokio::task::JoinError) -> RpcError {
    RpcError::internal(format!("the work on storage ended: {error}"))
}

async fn download(
    daemon: Arc<Daemon>,
    context: CallContext,
    call: StorageVolDownload,
) -> Result<(), RpcError> {
    only(call.flags, SPARSE)?;
    let pool = daemon.pool_of(&call.vol)?;
    let name = call.vol.name.clone();
    let download =
        daemon.with_storage(move |storage| storage.download(&pool, &name, call.offset, call.length)).await?;
    let stream = context.stream()?;
    let sparse = call.flags & SPARSE != 0;
    tokio::spawn(async move {
        let mut stream = stream;
        match send(download, &mut stream.sender, sparse).await {
            Ok(true) => drop(stream.complete().await),
            // The client went away.
            Ok(false) => {}
            Err(error) => stream.sender.fail(&error).await,
        }
    });
    Ok(())
}

/// What the next step of a download is.
enum Step {
    Data(Vec<u8>),
    Hole(u64),
    End,
}

/// Sends the whole volume; false when the client went away.
async fn send(mut download: Download, sender: &mut StreamSender, sparse: bool) -> Result<bool, RpcError> {
    loop {
        let (next, step) = on_disk(download, move |download| step(download, sparse)).await?;
        download = next;
        let sent = match step {
            Step::Data(bytes) => sender.send(&bytes).await,
            Step::Hole(bytes) => sender.send_hole(bytes).await,
            Step::End => return Ok(true),
        };
        if sent.is_err() {
            return Ok(false);
        }
    }
}

fn step(download: &mut Download, sparse: bool) -> io::Result<Step> {
    match download.next_piece()? {
        Piece::End => Ok(Step::End),
        Piece::Hole(_) if sparse => download.skip().map(Step::Hole),
        Piece::Hole(bytes) | Piece::Data(bytes) => {
            let mut data = vec![0; usize::try_from(bytes).unwrap_or(CHUNK).min(CHUNK)];
            download.read_exact(&mut data)?;
            Ok(Step::Data(data))
        }
    }
}
