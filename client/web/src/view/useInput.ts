/** The chosen image as the input tensor. */

import { useEffect, useRef, useState } from "preact/hooks";
import { CAMERA, fromPicture, sample, type Input, type Picture } from "../model/images";
import { OWN, type State } from "../model/state";

/** Milliseconds between frames of the camera. */
const FRAME = 150;

/** Where the input comes from. */
export interface Source {
  readonly input: Input | null;
  /** Why there is no image, or null. */
  readonly trouble: string | null;
  /** Takes an image file of the reader. */
  open(file: File): Promise<boolean>;
}

export function useInput({ image, size, channels }: State): Source {
  const [input, setInput] = useState<Input | null>(null);
  const [trouble, setTrouble] = useState<string | null>(null);
  const [own, setOwn] = useState<Picture | null>(null);
  const latest = useRef(0);

  useEffect(() => {
    const mine = ++latest.current;
    const take = (made: Input) => mine === latest.current && setInput(made);
    setTrouble(null);
    if (image === CAMERA) return frames((video) => take(fromPicture(video, size, channels)), setTrouble);
    if (image === OWN && own) take(fromPicture(own, size, channels));
    else sample(image, size, channels).then(take, () => setTrouble("The sample image cannot be loaded."));
    return undefined;
  }, [image, size, channels, own]);

  const open = async (file: File) => {
    try {
      setOwn(await createImageBitmap(file));
      return true;
    } catch {
      setTrouble(`${file.name} is no image that this browser can read.`);
      return false;
    }
  };
  return { input, trouble, open };
}

/** Hands frames of the camera to `take` until the returned function is called. */
function frames(take: (picture: Picture) => void, failed: (why: string) => void): () => void {
  let [timer, stream, over]: [number, MediaStream | null, boolean] = [0, null, false];
  const stop = () => stream?.getTracks().forEach((track) => track.stop());
  const begin = async () => {
    const video = document.createElement("video");
    video.muted = video.playsInline = true;
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: 320, height: 240 } });
    if (over) return stop();
    video.srcObject = stream;
    await video.play();
    timer = window.setInterval(() => {
      if (video.videoWidth) createImageBitmap(video).then((frame) => over || take(frame));
    }, FRAME);
  };
  begin().catch(() => failed("There is no camera, or this page may not use it. Choose another image."));
  return () => {
    over = true;
    clearInterval(timer);
    stop();
  };
}
